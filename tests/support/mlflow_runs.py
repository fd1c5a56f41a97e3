"""What MLflow has of the one run of a folder."""

from mlflow import MlflowClient

from server_app.results.folder import RunFolder

Shown = dict[str, list[tuple[int, float]]]
"""Each figure's steps and values."""


def of_mlflow(folder: RunFolder) -> Shown:
    client = MlflowClient(f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("dr-encoder").experiment_id])
    assert [run.info.run_name for run in runs] == [folder.path.name]
    keys, run = runs[0].data.metrics, runs[0].info.run_id
    return {key: [(point.step, point.value) for point in client.get_metric_history(run, key)] for key in keys}
