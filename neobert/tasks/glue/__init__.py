"""Fine-tuning on GLUE and on classification or regression tasks of one's own."""
