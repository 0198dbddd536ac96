"""Why a run was as fast as it was: the stretches of a recording, and what changed from one to the next."""
