"""How the notebooks are run, told and compared. It may import the science, never the reverse."""
