"""`spark-submit curation/spark_job.py --run-dir RUN --steps dedup`: a step of a run on an existing Spark cluster."""

from __future__ import annotations

import argparse
import json

from cluster import storage
from cluster.engines.on_spark import Spark
from curation.dedup.schema import DedupConfig
from curation.dedup.steps import dedup


def main(arguments: list[str] | None = None) -> None:
    """Settings come from RUN/<step>/_job.json, which `pinisi run` writes before it starts the step itself."""
    parser = argparse.ArgumentParser(prog="spark_job.py", description="Steps of a Pinisi run on an existing Spark.")
    parser.add_argument("--run-dir", required=True, help="the run directory, any URI")
    parser.add_argument("--steps", nargs="+", choices=["dedup"], required=True)
    options = parser.parse_args(arguments)
    jobs = {}
    for step in options.steps:
        uri = storage.join(options.run_dir, step, "_job.json")
        if not storage.exists(uri):
            parser.error(f"{uri} is not there: `pinisi run` writes it when the stage before {step} is done")
        jobs[step] = storage.read_json(uri)
    from cluster.spark.session import session, stop

    spark = session("submit", app_name="pinisi")
    for step, job in jobs.items():
        config = DedupConfig(**job["config"])
        where = (job["parts"], job["out"], job["ledger"], config, job["fingerprint"])
        counts = dedup(Spark(spark), *where, name=job["name"])
        print(json.dumps({"step": step, **counts}), flush=True)
    stop(spark)


if __name__ == "__main__":
    from curation.spark_job import main as main_of_module  # workers find functions of a module, not of __main__

    main_of_module()
