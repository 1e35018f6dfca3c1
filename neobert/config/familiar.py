"""Names that other trainers use, and the key that does the same here."""

WORDS = """\
optimizer.lr: learning_rate lr peak_lr max_lr base_lr
trainer.per_device_train_batch_size: batch_size auto_find_batch_size total_batch_size
trainer.per_device_train_batch_size: train_batch_size per_gpu_train_batch_size per_device_batch_size
trainer.per_device_train_batch_size: device_train_batch_size micro_batch_size
dataset.max_seq_length: block_size max_len seq_len seq_length sequence_length max_seq_len max_length
dataset.max_seq_length: model_max_length context_length max_position
trainer.gradient_accumulation_steps: accumulate_grad_batches grad_accum grad_accum_steps
trainer.gradient_accumulation_steps: gradient_accumulation accum_steps
trainer.gradient_clipping: max_grad_norm gradient_clip_val grad_clip clip_grad_norm max_norm
trainer.gradient_clipping: clip_grad
trainer.mixed_precision=fp16: fp16
trainer.mixed_precision=bf16: bf16
trainer.mixed_precision: precision dtype torch_dtype
scheduler.warmup_percent (a ratio of 0.1 is 10): warmup_ratio
scheduler.name: lr_scheduler_type lr_scheduler scheduler_type scheduler_name
scheduler.*: lr_scheduler_kwargs
optimizer.name: optim optimizer_type optimizer_name
optimizer.betas: adam_beta1 adam_beta2 beta1 beta2 adam_betas
optimizer.eps: adam_epsilon epsilon
trainer.num_train_epochs: epochs num_epochs max_epochs train_epochs
trainer.max_steps: steps num_steps train_iters num_train_steps num_training_steps
trainer.max_steps: total_training_steps training_steps
trainer.resume_from_checkpoint: resume ckpt_path resume_from checkpoint checkpoint_path
trainer.resume_from_checkpoint: load_checkpoint
trainer.eval_strategy: evaluation_strategy do_eval
trainer.eval_steps: val_check_interval eval_every eval_interval eval_freq
trainer.eval_max_batches: limit_val_batches
trainer.logging_steps: log_every_n_steps log_every log_interval log_freq print_freq
trainer.early_stopping: early_stopping_patience patience
trainer.use_cpu: no_cuda accelerator
wandb.name: run_name
trainer.report_to: logger
model.init_from, glue.pretrained_model_path: model_name_or_path
model.init_from: init_from_checkpoint
dataset.name: dataset_name train_dataset
dataset.config: dataset_config_name
dataset.path: train_file data_path train_files training_file data_files data_dir dataset_path
datacollator.pack_sequences: packing
datacollator.mlm_probability: mask_ratio mlm_prob mask_prob masking_rate mask_rate
datacollator.mlm_probability: masking_probability
trainer.devices: gpus n_gpu nproc num_gpus nproc_per_node num_devices
trainer.torch_compile: compile
model.attn_backend: flash_attention_2 attn_implementation attn_impl attention_implementation
model.attn_backend: use_flash_attn flash_attn
trainer.output_dir: save_dir out_dir output ckpt_dir checkpoint_dir log_dir logging_dir
debug: log_level verbose
debug=fast: fast_dev_run
trainer.overfit_steps: overfit_batches
optimizer.weight_decay: wd adam_weight_decay
trainer.per_device_eval_batch_size: eval_batch_size valid_batch_size val_batch_size test_batch_size
trainer.per_device_eval_batch_size: per_gpu_eval_batch_size
scheduler.warmup_steps: warmup warmup_iters
scheduler.final_lr_ratio: min_lr lr_min eta_min lr_end min_lr_ratio
dataset.path (a folder with a file per split): validation_file eval_file valid_file test_file
dataset.path (a folder with a file per split): eval_dataset
dataset.train_split: split
dataset.text_column: text_column_name text_field text_key dataset_text_field
dataset.eval_samples: max_eval_samples
dataset.num_workers: num_workers
dataset.num_proc: preprocessing_num_workers num_processes_tokenize
model.hidden_size: hidden_dim d_model n_embd embed_dim dim
model.num_hidden_layers: num_layers n_layers n_layer layers depth
model.num_attention_heads: num_heads n_heads n_head heads
model.intermediate_size: d_ff ffn_dim ffn_hidden_size mlp_dim
model.dropout_prob: dropout hidden_dropout_prob dropout_rate attention_dropout
model.dropout_prob: attention_probs_dropout_prob
model.norm_eps: layer_norm_eps rms_norm_eps
trainer.save_steps: save_every save_interval checkpoint_every
trainer.strategy: distributed_backend fsdp zero_stage
trainer.num_nodes: nnodes
tokenizer.name: tokenizer_name tokenizer_name_or_path
contrastive.temperature: tau
contrastive.pooling: pooling_mode
wandb.project: wandb_project project_name
"""
"""What to write: last parts of keys elsewhere (Hugging Face, Lightning, torchtune, nanoGPT)."""

FAMILIAR = {
    word: ours
    for ours, _, words in (line.partition(": ") for line in WORDS.splitlines())
    for word in words.split()
}
"""Last part of a key elsewhere -> what to write."""
