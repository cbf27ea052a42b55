"""How plain data of trusted peers go between the Teredo interface and UDP without the state machine."""

import os

# Else numpy would come with threads, and a supervisor forks and moves between namespaces.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
