"""The processes of a run: who computes what, how they agree, how they are started. Imports torch when it is used."""
