"""Models on the Hugging Face Hub: pushed with a card made from the run, and pulled.

Nothing goes to the network but by these two functions.
"""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import unnoise
from unnoise import checkpoint, events
from unnoise.data.images import save_png
from unnoise.errors import CheckpointError, UsageError
from unnoise.evaluation import record as evaluations
from unnoise.evaluation.summary import summary
from unnoise.files import replacing
from unnoise.model import Model, load
from unnoise.records import MODEL_FILE
from unnoise.sampling import Request, account

GRID = "samples.png"
TIMEOUT_SEC = 10
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
CARD = """\
---
{front}
---

# {title}

![The samples of seeds 0 to {last}, nothing picked]({grid})

A denoising diffusion model of images, {made} unnoise.

```sh
pip install 'unnoise[hub]'
unnoise pull {repo} --out {title}.safetensors
unnoise sample {title}.safetensors
```

The file holds weights and settings; loading it runs no code.

## Data and training

```
{account}
```

The whole configuration is in the file: `unnoise info {title}.safetensors` prints it.

## Quality

{quality}
"""
UNMEASURED = "Not measured. `unnoise evaluate RUN` measures FID, precision, recall and copies."


def prepare(name: str, repo: str, folder: Path, license: str = "", half: bool = False) -> Model:
    """Write what `push` sends: model.safetensors, README.md (the card) and samples.png.

    The record keeps the names of files, not where they lie. A measurement of other weights is left
    out. Gives the model as it is published.
    """
    if license and not re.fullmatch(r"[\w.+-]+", license):
        raise UsageError(f"license: got {license!r}, expected a name such as mit or cc-by-4.0")
    folder.mkdir(parents=True, exist_ok=True)
    model = _published(load(name, "cpu"))
    model.save(folder / MODEL_FILE, half)
    request = Request(model, range(4 * min(10, model.shape.num_classes or 4)))
    events.say(f"sampling {len(request.seeds)} pictures for the card")
    images = model.sample(seeds=request.seeds)
    save_png(
        folder / GRID,
        request.sheet(images),
        {"unnoise": f"samples of weights {model.weights_hash}"},
    )
    front = {"library_name": "unnoise", "pipeline_tag": "unconditional-image-generation"}
    front |= {"license": license} if license else {}
    source = model.record["config"]["data"]["source"]
    if source.startswith("hf:"):
        front["datasets"] = source.removeprefix("hf:").partition("@")[0]
    preset = model.config.preset
    made = f"{preset} into" if preset.startswith("imported from ") else "trained by"
    lines = [f"{key}: {value}" for key, value in front.items()]
    text = CARD.format(
        front="\n".join([*lines, "tags: [diffusion, ddpm, pytorch]"]), repo=repo, grid=GRID,
        made=made, title=repo.partition("/")[2], last=len(request.seeds) - 1,
        quality=quality(name, model),
        account="\n".join(account(folder / MODEL_FILE)[0]),
    )  # fmt: skip
    (folder / "README.md").write_text(text, "utf-8")
    return model


def push(name: str, repo: str, private: bool = False, license: str = "", half: bool = False) -> str:
    """Upload a model (a run, a file, a bundled name) as OWNER/NAME, and give its address.

    UsageError where the Hub cannot be reached or refuses, before anything is uploaded.
    """
    api = _api(repo)
    with _reached(repo):
        _info(api, repo)  # the other calls would wait for ever for a network that does not answer
    with TemporaryDirectory() as made:
        model = prepare(name, repo, Path(made), license, half)
        with _reached(repo):
            url = api.create_repo(repo, private=private, exist_ok=True)
            said = f"unnoise {unnoise.__version__}: weights {model.weights_hash}"
            api.upload_folder(repo_id=repo, folder_path=made, commit_message=said)
    return str(url)


def pull(repo: str, path: Path) -> None:
    """Download OWNER/NAME[@REVISION]'s model.safetensors to a file, verified.

    UsageError where the Hub cannot be reached or has no such model, CheckpointError for a file that
    is not unnoise's.
    """
    name, _, revision = repo.partition("@")
    api = _api(name)
    with _reached(repo):
        info = _info(api, name, revision or None)
    if info is None:
        raise UsageError(f"{repo}: is not on the Hub, or is private; log in with `hf auth login`")
    if MODEL_FILE not in {file.rfilename for file in info.siblings or ()}:
        other = f"hf download {name} --local-dir FOLDER, then unnoise import FOLDER"
        raise UsageError(f"{repo}: has no {MODEL_FILE}; for another package's model: {other}")
    with _reached(repo), TemporaryDirectory() as folder:
        found = api.hf_hub_download(name, MODEL_FILE, revision=info.sha, local_dir=folder)
        try:
            checkpoint.read_model(Path(found))
        except CheckpointError as error:
            raise CheckpointError(f"{repo}: {error}") from error
        with replacing(path) as temporary:
            shutil.copyfile(found, temporary)


def _published(model: Model) -> Model:
    """The model without the trainer's keys, and without the names of folders of this machine."""
    record = model.alone().record
    config = _without_folders(record["config"])
    config["data"] = {k: v for k, v in config["data"].items() if k not in ("path", "cache")}
    return Model(model.network, model.config, {**record, "config": config})


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(each) for each in value]
    path = isinstance(value, str) and not value.startswith("hf:")
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if path else value


def quality(name: str, model: Model) -> str:
    """What a run's evaluation says of a model, in Markdown; UNMEASURED for one of other weights."""
    path = Path(name) / "evaluation.json"
    if not path.is_file():
        return UNMEASURED
    record = evaluations.read(path)
    if not model.weights_hash.startswith((record["model"] or {"weights": "none"})["weights"]):
        return UNMEASURED
    for one in record["distances"]:
        one["reference"] = re.sub(r"\S*/", "", str(one["reference"]))
    return f"By `unnoise evaluate`:\n\n```\n{summary(record)}\n```"


def check_name(repo: str) -> None:
    """UsageError for what is not OWNER/NAME."""
    if not NAME.fullmatch(repo):
        raise UsageError(f"got {repo!r}, expected OWNER/NAME, as on the Hugging Face Hub")


def _api(repo: str) -> Any:
    check_name(repo)
    try:
        return importlib.import_module("huggingface_hub").HfApi(library_name="unnoise")
    except ImportError as error:
        raise UsageError("the Hub needs: pip install 'unnoise[hub]'") from error


def _info(api: Any, repo: str, revision: str | None = None) -> Any:
    """What the Hub says of a model; None where it has none."""
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        return api.model_info(repo, revision=revision, timeout=TIMEOUT_SEC)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        return None


@contextmanager
def _reached(repo: str) -> Iterator[None]:
    """Errors of the network and of the Hub as one line."""
    try:
        yield
    except (CheckpointError, UsageError):
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).partition("\n")[0]
        fix = "expected a network, and `hf auth login` for a repository of your own"
        raise UsageError(f"{repo}: the Hub says: {said}; {fix}") from error
