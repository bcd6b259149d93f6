"""The farm on Slurm: one allocation (`farm submit`) and what runs inside it."""
