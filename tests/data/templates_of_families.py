"""Chat templates with the habits of known families: what they leave out, move, or rewrite."""

SYSTEM_WITH_LAST_QUESTION = (
    "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{{- bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "{% if tools and (m == (turns | selectattr('role', 'equalto', 'user') | list)[-1]) %}"
    "{{ '[TOOLS]' + (tools | tojson) + '[/TOOLS]' }}{% endif %}"
    "{{ '[INST] ' }}{% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}"
    "{{ m.content + '[/INST]' }}{% elif m.role == 'tool' %}"
    "{{ '[RESULT] ' + m.content + '[/RESULT]' }}{% elif m.tool_calls %}"
    "{{ '[CALLS] [' }}{% for c in m.tool_calls %}{{ c.function | tojson }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
"""As Mistral's: the system prompt stands in a question only while no answer follows it, calls have
a header of their own, and there is no generation prompt."""

THINKS = (
    "{%- if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = m.content or '' %}{% set thought = '' %}"
    "{% if m.reasoning_content %}{% set thought = m.reasoning_content %}"
    "{% elif '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% set text = text.split('</think>')[-1].lstrip() %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ text }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + (c.function | tojson) + '</call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
"""As Qwen3's: the last answers begin with a thought, an empty one where there is none."""

DROPS_THOUGHTS = (
    "{% for m in messages %}{% set text = m.content %}{% if m.role == 'assistant' and "
    "'</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Drops reasoning of every answer, the last one's as well."""

BEGINS_WITH_A_THOUGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""As R1's distillations: the generation prompt opens a thought that the turns do not have."""

HIDES_THOUGHTS_ONCE_ANSWERED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set ns = namespace(answered=false) %}{% for later in messages[loop.index:] %}"
    "{% if later.role == 'assistant' and not later.tool_calls %}{% set ns.answered = true %}"
    "{% endif %}{% endfor %}{% set thought = m.thinking or (m.content if m.tool_calls else '') %}"
    "{% if thought and not ns.answered %}"
    "{{ '<|im_start|>assistant/thought\n' + thought + '<|im_end|>' }}{% endif %}"
    "{% if m.tool_calls %}"
    "{{ '<|im_start|>assistant/call\n' + (m.tool_calls[0].function | tojson) }}"
    "{% else %}{{ '<|im_start|>assistant/answer\n' + m.content }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endif %}{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
"""As gpt-oss's: what was thought before a call is shown until the answer is there."""

ASKS_BEHIND_EVERYTHING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{{ '<|start_header_id|>' + m.content + '<|end_header_id|>' }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
"""As Command-R's and Command-A's: the header of the next answer, whether asked for or not."""

ASKS_WITHOUT_A_THOUGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}{% endif %}"
)
"""As Gemma 4's: asked behind an empty thought, which no answer in the history has."""
