"""Three questions to a trainer that has nothing to do with its samples, put to unnoise and to public trainers alike.

    python3 -m venv peers
    peers/bin/pip install torch==2.13.0 torchvision==0.28.0 diffusers==0.42.1 accelerate==1.15.0 datasets==5.2.0 \
        denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3 pytorch-lightning==2.5.6 tensorboard==2.21.0 \
        -c constraints.txt .
    OMP_NUM_THREADS=1 peers/bin/python -m benchmarks.reliability --diffusers-script train_unconditional.py \
        --out benchmarks/results/reliability-peers.json

`--subjects` and `--rows` ask less; an existing --out is added to. `--subjects accelerate-stateful` needs torchdata==0.11.0 in
an environment of its own, because torchdata changes what torch's sampler draws. All of it takes about an hour on one core.

`train_unconditional.py` is diffusers' example of that name (examples/unconditional_image_generation, commit c56add8). Where
torchvision does not load beside torch, a folder on PYTHONPATH with a `torchvision/__init__.py` that says only
`__path__ = ["<site-packages>/torchvision"]` gives its Python code without its compiled operators; nothing here needs them.

    kills, late-kills   SIGKILL while it saves, over and over: what does a new process go on from?
    flips               one bit of the newest checkpoint's weights flipped, or its file cut: who notices?
    resume              stopped after step k and gone on with: is it the same run?

Every subject is in a file of its own and is used through its public interface, as its documentation says.
"""
