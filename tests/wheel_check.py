"""Installs the wheel into an empty folder, runs it from another one, and checks that it brings all it needs.

python tests/wheel_check.py dist
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(dist: str) -> None:
    (wheel,) = Path(dist).glob("jvlm-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        site, elsewhere = Path(folder) / "site", Path(folder) / "elsewhere"
        elsewhere.mkdir()
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
        subprocess.run(pip, check=True)
        # Before everything else on the path, so that the checkout's own package is not what is tested.
        env = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}

        def run(*command: str) -> str:
            done = subprocess.run([sys.executable, *command], cwd=elsewhere, env=env, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)} failed from the wheel:\n{done.stdout}{done.stderr}")
            return done.stdout

        where = run("-c", "import jvlm; print(jvlm.__file__)").strip()
        if not where.startswith(str(site)):
            sys.exit(f"tested {where}, not the wheel")
        run("-m", "jvlm.cli.main", "--help")
        train = ("-m", "jvlm.cli.train", "--config", "clip_tiny_emoji_pretrain.py:tiny", "--workdir", "run")
        run(*train, "--config.evals={}")
        run("-m", "jvlm.cli.main", "verify", "run")
        if not (elsewhere / "run" / "export" / "model.safetensors").is_file():
            sys.exit("the wheel trained but exported nothing")
    print(f"{wheel.name}: installs, trains and exports elsewhere")


if __name__ == "__main__":
    main(sys.argv[1])
