# A profile's whole path: prepare, train, evaluate, figures, tables, each a notebook that papermill
# executes. Every command below also runs by hand.
#
#   snakemake --cores 2 --config profile=quick
#   snakemake --cores 16 --resources gpu=4 --config profile=celeba64     (one run a GPU)
#   snakemake --profile profiles/slurm --config profile=celeba64         (a cluster)
#
# Done runs are not run again; an interrupted run goes on from its checkpoint (it is no output of a
# rule, so nothing deletes it).
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

import paperlib.beyond  # its method and its data set have names too
from paperlib import paths
from paperlib.core.baselines import BASELINES
from paperlib.errors import ConfigurationError
from paperlib.evaluation.references import ROWS
from paperlib.profiles import load_profile

PROFILE = config.get("profile", "quick")
OUT = paths.RESULTS / PROFILE
try:
    RUNS = {run.name: run for run in load_profile(PROFILE)}
except ConfigurationError as error:
    raise WorkflowError(str(error)) from None
NEEDS = {run.data.folder: run for run in RUNS.values()}  # prepared data -> a run that needs them
DATA_OF = {run.corruption: run.data.folder for run in RUNS.values()}
TABLES = [OUT / f"{name}.{suffix}" for name in ("table1", "table2", "beyond") for suffix in ("csv", "md", "tex")]
CLAIMS = [OUT / "claims.csv", OUT / "claims.md"]
# At this level papermill's log shows what the notebooks write to standard error: the progress.
PAPERMILL = (
    "PAPERLIB_PROGRESS=lines papermill --kernel python3 --no-progress-bar"
    " --log-output --log-level WARNING"
)
# With --resources gpu=N every run asks for a GPU. Here each is given its own, by CUDA_VISIBLE_DEVICES;
# --config runs_per_gpu=K lets K small ones share it. On a cluster Slurm gives it: there a job reads
# this file once more, as remote, and runs its command without ON_GPU.
N_GPUS = workflow.global_resources.get("gpu")
N_GPUS = int(getattr(N_GPUS, "value", N_GPUS) or 0)
RUNS_PER_GPU = int(config.get("runs_per_gpu", 1))
GPU = 1 if N_GPUS else 0
ON_GPU = ""
CLUSTER_CORES = 4
if N_GPUS and workflow.local_exec and not workflow.remote_exec:
    workflow.register_resource("gpu", N_GPUS * RUNS_PER_GPU)  # places
    ON_GPU = f"python {paths.ROOT}/scripts/on_a_gpu.py {N_GPUS} {RUNS_PER_GPU} env "


def write_if_changed(path, config):
    """A configuration for others to depend on; untouched when unchanged, so that nothing runs again."""
    text = yaml.safe_dump(config.model_dump(), sort_keys=False)
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


for name, run in NEEDS.items():
    write_if_changed(OUT / "parameters" / f"{name}.yaml", run.data)
for name, run in RUNS.items():
    write_if_changed(OUT / "parameters" / f"{name}.yaml", run)
(OUT / "notebooks").mkdir(parents=True, exist_ok=True)


onsuccess:
    print(f"Done: tables, figures and executed notebooks are in {OUT}")


localrules: all, report


rule all:
    input:
        TABLES, CLAIMS, OUT / "figure4.png", OUT / "figure5.png", OUT / "report.html",


def parameters(run):
    """What papermill is to put into a notebook; all other keys are the profile's."""
    return f"-p profile {PROFILE} -p corruption {run.corruption} -p method {run.method} -p seed {run.seed}"


rule prepare:
    input:
        notebook = ancient(paths.NOTEBOOKS / "01_prepare_data.ipynb"),
        configuration = ancient(OUT / "parameters" / "{data}.yaml"),
    output:
        paths.DATA / "{data}" / "manifest.json",
    log:
        notebook = OUT / "notebooks" / "01_prepare_data-{data}.ipynb",
    params:
        parameters = lambda w: parameters(NEEDS[w.data]),
    shell:
        PAPERMILL + " {input.notebook} {log.notebook} {params.parameters}"


def threads_of(run):
    """What a run asks for; where it leaves the choice, every core, on a cluster CLUSTER_CORES."""
    return RUNS[run].threads or workflow.global_resources["_cores"].value or CLUSTER_CORES


def training_notebook(w):
    """03 explains and trains the baselines of Table 2, 02 everything else."""
    name = "03_baselines" if RUNS[w.run].method in BASELINES else "02_train"
    return ancient(paths.NOTEBOOKS / f"{name}.ipynb")


rule train:
    input:
        notebook = training_notebook,
        configuration = OUT / "parameters" / "{run}.yaml",  # another one: train again
        data = lambda w: paths.DATA / RUNS[w.run].data.folder / "manifest.json",
    output:
        OUT / "runs" / "{run}" / "record.json",
    log:
        notebook = OUT / "notebooks" / "train-{run}.ipynb",
    threads: lambda w: threads_of(w.run)
    resources:
        gpu = GPU,
    params:
        parameters = lambda w: parameters(RUNS[w.run]),
    priority: 1  # before evaluations, which are short: so no core is idle for long at the end
    retries: 1  # an interrupted run goes on from its checkpoint
    shell:
        ON_GPU + PAPERMILL + " {input.notebook} {log.notebook} {params.parameters}"


rule evaluate:
    input:
        notebook = ancient(paths.NOTEBOOKS / "04_evaluate.ipynb"),
        record = OUT / "runs" / "{run}" / "record.json",
    output:
        OUT / "runs" / "{run}" / "evaluation.json",
    log:
        notebook = OUT / "notebooks" / "04_evaluate-{run}.ipynb",
    threads: lambda w: threads_of(w.run)
    resources:
        gpu = GPU,
    retries: 1
    shell:
        ON_GPU + PAPERMILL + " {input.notebook} {log.notebook} -p profile {PROFILE} -p run {wildcards.run}"


rule references:
    input:
        lambda w: ancient(paths.DATA / DATA_OF[w.corruption] / "manifest.json"),
    output:
        expand(OUT / "references" / "{{corruption}}-{name}.json", name=ROWS),
    resources:
        gpu = GPU,
    shell:
        ON_GPU + "PAPERLIB_PROGRESS=lines OMP_NUM_THREADS={threads} python -m paperlib references {PROFILE}"
        " --corruption {wildcards.corruption}"


rule figures:
    input:
        notebook = ancient(paths.NOTEBOOKS / "05_figures.ipynb"),
        records = expand(OUT / "runs" / "{run}" / "record.json", run=RUNS),
    output:
        OUT / "figure4.png", OUT / "figure5.png",
    log:
        notebook = OUT / "notebooks" / "05_figures.ipynb",
    shell:
        PAPERMILL + " {input.notebook} {log.notebook} -p profile {PROFILE}"


rule tables:
    input:
        notebook = ancient(paths.NOTEBOOKS / "06_tables.ipynb"),
        figures = rules.figures.output, # which the page shows
        evaluations = expand(OUT / "runs" / "{run}" / "evaluation.json", run=RUNS),
        references = expand(
            OUT / "references" / "{corruption}-{name}.json", corruption=DATA_OF, name=ROWS
        ),
    output:
        TABLES, CLAIMS,
    log:
        notebook = OUT / "notebooks" / "06_tables.ipynb",
    shell:
        PAPERMILL + " {input.notebook} {log.notebook} -p profile {PROFILE}"


rule report:
    input:
        TABLES, CLAIMS,
    output:
        OUT / "report.html",
    shell:
        "jupyter nbconvert --to html --no-input --embed-images --log-level WARN"
        " --output-dir {OUT} --output report {OUT}/notebooks/06_tables.ipynb"
