"""Tables, figures and reports, made from a study's export and from nothing else."""
