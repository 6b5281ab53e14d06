"""How fast training and sampling are: beside the peers, and beside what the machine can do."""
