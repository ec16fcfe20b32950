"""`luthier run pipeline.yaml`: stages that train, generate, revise and select, each in a folder of its own."""
