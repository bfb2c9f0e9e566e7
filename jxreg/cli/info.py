"""`jxreg info`: what a file holds, what is missing, and the fix."""

from pathlib import Path

import tyro


def run_info(files: tyro.conf.Positional[tuple[Path, ...]], /, as_json: bool = False) -> int:
    """Tell what files hold.

    Args:
        files: CTs, X-rays, poses, cameras.
        as_json: Print JSON.
    """
    raise NotImplementedError
