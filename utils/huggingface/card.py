"""A model card: what a model is, learnt from and scores, from its file and from results.json alone; nothing by hand."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model import ModelConfig
from model.config import DEIT, DINOV2, DINOV3

from ..data import EvaluationImages, fitting
from ..evaluation.metrics import recall_interval
from ..models import Origin, said_of_weights
from ..report.runs import EvaluatedRun, read_runs, said_of
from .folders import load_library

# As the hub calls them. (id, name, address): the last two of a licence that it does not know.
_LICENCES = {DINOV2.licence: ("apache-2.0",), DEIT.licence: ("apache-2.0",),
             DINOV3.licence: ("other", "dinov3-license", DINOV3.on_request)}
# As far as datasets/README.md knows any.
_OF_SETS = {"gsv_cities": "CC BY-NC-ND 4.0 (from a secondary source)"}
UNKNOWN = "not stated by the sources that we know; read what comes with the images"


def model_card(config: ModelConfig, origin: Origin, fingerprint: str, *, results: Sequence[Path] = ()) -> Any:
    """A huggingface_hub.ModelCard.

    results  folders of labelled runs of this very model, by its fingerprint; ValueError or FileNotFoundError else
    """
    hub = load_library("huggingface_hub")
    runs = read_runs(results)
    for run in runs:
        if run.results["model"].get("fingerprint") != fingerprint:
            raise ValueError(f"{run.folder}/results.json is of another model ({run.results['model'].get('fingerprint')}"
                             f", expected {fingerprint}); evaluate this one by --resume, and give that run")
        if not run.results["recalls"]["final"]:
            raise ValueError(f"{run.folder}: no labels, so that there are no figures; leave it out")
    try:
        text = "\n".join([*_model(config, fingerprint), *_use(config, runs), *_trained_on(origin),
                          *_licences(config, origin), *_results(runs), *_failures(runs), *_PRIVACY, *_CITATION])
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # whatever a file may say of its trainings
        raise ValueError(f"no model card: what the model's file or results.json says cannot be used ({error!r})"
                         ) from error
    licence = dict(zip(("license", "license_name", "license_link"),
                       _LICENCES.get(config.licence(pretrained=origin.pretrained) or "", ()), strict=False))
    data = hub.ModelCardData(
        library_name="selavprpp", pipeline_tag="image-feature-extraction", model_name=_name(config), **licence,
        tags=["visual-place-recognition", "image-retrieval", "selavprpp"],
        eval_results=[result for run in runs for result in _evaluated(hub, run)] or None)
    return hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def _name(config: ModelConfig) -> str:
    return f"SelaVPR++ {config.backbone} {config.aggregation} {'+'.join(config.branches)}"


def _model(config: ModelConfig, fingerprint: str) -> list[str]:
    outputs = {"float": f"float descriptors of {config.float_dim} values (head: {config.aggregation}), compared by L2",
               "binary": f"binary codes of {config.code_bits} bits, compared by Hamming distance"}
    return [f"# {_name(config)}", "",
            "Visual place recognition: descriptors by which a photograph finds the images of its place. The method is "
            "*SelaVPR++: Towards Seamless Adaptation of Foundation Models for Efficient Place Recognition* "
            "([arXiv 2502.16601](https://arxiv.org/abs/2502.16601)); this model is of the open implementation "
            "*selavprpp*, written anew from the paper.", "",
            f"It gives {' and '.join(outputs[branch] for branch in config.branches)}. Backbone: {config.backbone}, a "
            f"{config.vit.family.name}; tuning: {config.tuning}, adapters: {config.placement}. `config.json` has the "
            f"whole configuration. Fingerprint of the weights: `{fingerprint}`.", ""]


def _use(config: ModelConfig, runs: Sequence[EvaluatedRun]) -> list[str]:
    sizes = {tuple(run.results["options"].get("resize") or ()) for run in runs}
    measured = next(iter(sizes)) if len(sizes) == 1 else ()
    height, width = measured if len(measured) == 2 else fitting(EvaluationImages.size, config.vit.patch, "--resize")
    seen = ", at which the figures below were measured" if len(measured) == 2 else ""
    return ["## How to load it, and to prepare images", "",
            "In a checkout of selavprpp, with `pip install huggingface_hub safetensors`; `OWNER/REPO` is this "
            "repository's name, or the path of a copy. Loading is strict: a weight missing, or one too many, is an "
            "error.", "",
            "```python", "import torch", "from PIL import Image", "from datasets import evaluation_transform",
            "from utils.huggingface.models import hub_model_class", "",
            'model = hub_model_class().from_pretrained("OWNER/REPO")',
            f"prepare = evaluation_transform(({height}, {width}))",
            'image = prepare(Image.open("query.jpg").convert("RGB"))',
            "with torch.inference_mode():",
            "    relaxed, binary, floating = model(image[None])   # None where there is no such branch",
            "```", "",
            "An image is RGB from 0 to 1, normalised with the ImageNet mean (0.485, 0.456, 0.406) and standard "
            f"deviation (0.229, 0.224, 0.225), then resized to {height} x {width} pixels{seen}. Both sides must be "
            f"multiples of {config.vit.patch}.", "",
            "`--resume OWNER/REPO` of the evaluation and training scripts, and of `python -m utils.localize`, takes it "
            "too.", ""]


def _trained_on(origin: Origin) -> list[str]:
    lines = ["## Training data", ""]
    for training in origin.trainings:
        data = training.get("data") or {}
        places = f"{data['places']:,} places, {data['images']:,} images" if "places" in data else "places not known"
        if "teacher" in data:
            places = f"{data['images']:,} images without labels, taught by {_text(data['teacher']['name'])}"
        lines.append(f"- {_text(Path(str(data.get('set', 'a set that is not named'))).name)}: {places} "
                     f"({_text(training.get('script'))}, {_text(training.get('precision'))}; epoch "
                     f"{_text(training.get('epoch'))}, chosen by {_text(training.get('selected_by'))})")
        if data.get("absent_cities"):
            lines.append(f"  - without {_text(', '.join(data['absent_cities']))}")
        lines += [f"  - validated on {_text(name)}: {_text(warning)}"
                  for name, validated in (training.get("validation") or {}).items()
                  for warning in validated.get("warnings", ())]
    if not origin.trainings:
        lines.append("- not known: the file that these weights come from does not say")
    return [*lines, *(f"- {_text(said)}" for said in said_of_weights(origin.pretrained, "the model's file")), ""]


def _licences(config: ModelConfig, origin: Origin) -> list[str]:
    inherited, family = config.licence(pretrained=origin.pretrained), config.vit.family.name
    if inherited is None:
        weights = "nothing inherited, as the backbone started from random weights; whoever publishes them decides"
    elif origin.pretrained:
        weights = f"{inherited}, inherited from {family}'s pre-trained weights"
    else:
        weights = f"not known; {inherited}, should the backbone come from {family}'s pre-trained weights"
    names = dict.fromkeys(Path(str((training.get("data") or {}).get("set", "not named"))).name
                          for training in origin.trainings)
    return ["## Licences", "", "- code: MIT", f"- weights: {weights}",
            *(f"- training set {_text(name)}: {_OF_SETS.get(name, UNKNOWN)}" for name in names), "",
            "Whether the terms of images bind weights that learnt from them is not settled by this list.", ""]


def _results(runs: Sequence[EvaluatedRun]) -> list[str]:
    lines = ["## Results", ""]
    if not runs:
        return [*lines, "None were given. `python -m utils.huggingface save ... --results RUN` puts them here.", ""]
    lines += ["Recall@k in percent, as each run's results.json has it, and its 95 % interval (Wilson). A query without "
              "a right answer counts as missed.", ""]
    for run in runs:
        found, ks = run.results, list(run.results["recalls"]["final"])
        lines += [f"### {_text(run.data_set)}", "",
                  f"- protocol: {_text(found['benchmark']['protocol'] or 'none by name')}",
                  f"- right answers: {_text(found['benchmark']['rule'])}",
                  f"- {found['n_database']:,} database images, {found['n_queries']:,} queries; files "
                  f"`{found['benchmark'].get('files_sha256')}`",
                  f"- images {' x '.join(map(str, found['options'].get('resize') or ['as they are']))}, precision "
                  f"{(found['extraction'] or {}).get('precision', 'not known')}", "",
                  f"| search |{''.join(f' R@{k} |' for k in ks)}", f"|---|{'---:|' * len(ks)}"]
        for label, recalls, n in run.counted():
            cells = [" {:.1f} ({:.1f} to {:.1f}) |".format(
                recalls[k], *recall_interval(round(recalls[k] * n / 100), n)) for k in ks]
            lines.append(f"| {_text(label)} |{''.join(cells)}")
        lines += ["", *_warned(dict.fromkeys(run.warnings))]
    alone = tuple(warning for run in runs for warning in run.warnings)
    return [*lines, *_warned(said for said in said_of(runs) if not said.endswith(alone))]


def _warned(warnings: Iterable[str]) -> list[str]:
    return [line for warning in warnings for line in (f"**Warning:** {_text(warning)}", "")]


def _evaluated(hub: Any, run: EvaluatedRun) -> Iterator[Any]:
    """The same figures as the hub's EvalResult, the warnings with each."""
    found = run.results
    for label, recalls, n in run.counted():
        for k, value in recalls.items():
            yield hub.EvalResult(
                task_type="image-feature-extraction", task_name="Visual place recognition",
                dataset_type=found["benchmark"]["protocol"] or found["dataset"], dataset_name=run.data_set,
                dataset_split=found["split"], dataset_revision=found["benchmark"].get("files_sha256"),
                dataset_config=run.name,  # else the hub would take two runs on one set for one
                dataset_args={"rule": found["benchmark"]["rule"], "database_images": found["n_database"],
                              "warnings": list(dict.fromkeys(run.warnings))},
                metric_type=f"recall_at_{k}", metric_name=f"R@{k} in percent, {label}", metric_value=value,
                metric_args={"queries": n})


def _failures(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Without names of images: those of people's photographs may hold their coordinates."""
    lines = ["## Where it fails", "",
             "- It always answers: a photograph of a place that the map does not hold gets the most similar one.",
             "- Places that look alike (corridors, facades, tunnels, fields) are taken for each other.",
             "- What the training data lack (night, seasons, other cameras, turned images) was not measured beyond the "
             "sets above.", ""]
    for run in runs:
        kinds = run.kinds
        said = {"wrong": "wrong at rank 1", "unanswerable": "without a right answer in the database",
                "rescued": "set right by re-ranking", "hurt": "set wrong by re-ranking"}
        lines += [f"On {_text(run.data_set)}, of {run.n_queries:,} queries:", "",
                  *(f"- {int(kinds[kind].sum()):,} {words}" for kind, words in said.items() if kind in kinds)]
        metres = run.metres(1)
        away = np.empty(0) if metres is None else metres[kinds["wrong"], 0]
        if (away := away[~np.isnan(away)]).size:
            lines.append(f"- wrong first answers lie {away.min():,.0f} to {away.max():,.0f} m away, half of them over "
                         f"{np.median(away):,.0f} m")
        lines.append("")
    return lines


_PRIVACY = [
    "## Privacy", "",
    "Street images show people, number plates and homes. This repository holds none, and a descriptor is no image; but "
    "descriptors of images with coordinates are a map that tells where any other photograph was taken, which can be a "
    "person's home or way. Whether the training images were blurred is not known to us. Blur what you publish, keep "
    "maps of private places to yourself, and do not locate people's photographs without their consent.", ""]
_CITATION = [
    "## Citation", "", "```", "@ARTICLE{selavprpp,",
    "  author={Lu, Feng and Jin, Tong and Lan, Xiangyuan and Zhang, Lijun and Liu, Yunpeng and Wang, Yaowei",
    "    and Yuan, Chun},",
    "  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},",
    "  title={SelaVPR++: Towards Seamless Adaptation of Foundation Models for Efficient Place Recognition},",
    "  year={2025}, doi={10.1109/TPAMI.2025.3629287}}", "```"]


def _text(value: object) -> str:
    """In one line, with nothing that Markdown takes for a table or a tag."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
