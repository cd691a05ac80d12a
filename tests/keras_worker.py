"""What test_keras.py runs in a process of its own for each of Keras's backends.

    KERAS_BACKEND=jax python keras_worker.py FOLDER

runs every check of the modules below and prints one line of JSON: of each check, "" or the traceback.
"""

import json
import sys
import traceback
import warnings
from pathlib import Path

import keras_golden as keras_golden
import keras_kinds as keras_kinds
import keras_reference as keras_reference
import keras_training as keras_training
import keras_twins as keras_twins
import needs
from keras_checks import BACKEND, CHECKS


def main() -> None:
    folder, found = Path(sys.argv[1]), {}
    if BACKEND == "jax":
        needs.package("jax").config.update("jax_enable_x64", True)
    warnings.simplefilter("error")
    # Keras's own reading of its variables, under NumPy 2.
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    for name, run in CHECKS.items():
        try:
            run(folder)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
