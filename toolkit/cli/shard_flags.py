"""The part of predict.py that labels many files on a Ray cluster."""

from argparse import Namespace

from toolkit.cli.command_line import opening


def label_shards(arguments: Namespace) -> None:
    """Label the files that --input matches, on the cluster that --ray names."""
    from toolkit.distributed.ray_prediction import ModelOptions, predict_shards

    options = ModelOptions.of(
        arguments.run, arguments.model, arguments.calibrated, arguments.overrides, **opening(arguments)
    )
    manifest = predict_shards(options, arguments.input, arguments.output, arguments.ray, progress=True)
    print(f"labeled     {arguments.output}: {manifest['rows']:,} rows in {len(manifest['shards']):,} shards")
