"""The page of a recording: one file of HTML, without a script and without anything from the network."""
