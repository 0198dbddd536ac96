"""The bottom layer: shared memory, the ledger, telemetry, and the supervision of a run's processes."""

import os

__version__ = "0.1.0"

# Nothing here multiplies matrices, but where numpy is imported its BLAS starts threads, for 0.1 s of CPU in each of a
# run's or a merge's processes. Children inherit this.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
