"""Three questions to trainers of diffusion models, put to unnoise and to public ones alike.

    python3 -m venv peers
    peers/bin/pip install torch==2.13.0 torchvision==0.28.0 diffusers==0.42.1 accelerate==1.15.0 \
        datasets==5.2.0 denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3 \
        tensorboard==2.21.0 -c constraints.txt .
    OMP_NUM_THREADS=1 peers/bin/python -m benchmarks.reliability \
        --diffusers-script train_unconditional.py --out benchmarks/results/reliability-peers.json

    kills, late kills   SIGKILL while it saves, over and over: what does a new process resume from?
    flips               one bit of the newest weights flipped, or their file cut: who notices?
    resume              stopped after step k and resumed: is it the same run?

`--subjects` and `--rows` ask less; an existing --out is added to. `train_unconditional.py` is
diffusers' example of that name (at commit c56add8, in examples/unconditional_image_generation).
Where torchvision does not load beside torch, a folder on PYTHONPATH with a
`torchvision/__init__.py` that says only `__path__ = ["<site-packages>/torchvision"]` gives its
Python code without compiled operators. Every subject is used as its documentation says.

accelerate's loops and Lightning were asked at commit 3a00621; docs/results/reliability.md has the
answers.
"""
