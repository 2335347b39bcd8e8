"""The chat format that tokenizer and training share: Qwen2.5's ChatML, without the system turn that Qwen makes up.

    <|im_start|>role newline content <|im_end|> newline          for every turn

`{% generation %}` marks what an assistant writes, so that `apply_chat_template(..., return_assistant_tokens_mask=True)`,
and with it TRL's `assistant_only_loss`, finds the tokens that `train.chat.conversations.encode` scores; it renders nothing.
"""

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endgeneration %}"
    "{%- else %}{{- '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""As a Jinja template, for `tokenizer.chat_template`."""
