"""Files as the source of a data set: looked at before a run, sampled, compared with its rows."""
