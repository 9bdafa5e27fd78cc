"""From params.yaml and pipeline/conf to validated configurations; alone imports hydra."""
