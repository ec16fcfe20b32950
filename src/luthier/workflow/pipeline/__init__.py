"""`luthier run pipeline.yaml`: stages that train, generate and select, each in a folder of its own."""
