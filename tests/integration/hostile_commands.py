"""Commands that cannot work: each has to end with one sentence, exit code 1 or 2, nothing written.

`OWN` begins with words that name a model and data; `BARE` does not.
"""

from sft_app.config.reference.describe_settings import all_settings
from sft_app.config.validation.number_ranges import NUMBER_RANGES

OUT_OF_RANGE = ("nan", "inf", "-inf", "-2", "1e40", "1" + "0" * 40, "many", "[x]", "true")
"""What no setting takes that is a number."""

WRONG_WORDS = [
    "yarn", "rope", "chat.jsonl", "=", "==", "=5", "a", "-x", "--foo", "--model", "--lr=1e-4",
    "--multirn", "--help-me", "--cfg=nothing", "--config-dir", "--config-dir=/no/such/folder",
    "-cn", "+", "++", "~", "~nothing", "+=1", "a b=1", ".=1", "..=1", "a.=1", ".a=1", "[]=1", "{}",
    "'context_length=5'", "context_length", "context_length:5", "context_length 5", "@", "@a=1",
    "rope@x", "\x00=1", "\u202e=1", "größe=1", "=größe", "-", "--", "---", "%s=1", "$HOME", "${x}",
    "context_length==5", "contextlength=5", "Context_Length=5", "CONTEXT_LENGTH=5", "x" * 5000,
]  # fmt: skip

WRONG_KEYS = [
    "lr=1", "epochs=3", "batch_size=2", "cutoff_len=5", "max_seq_length=9", "lora_r=8",
    "model_name=x", "output_dir=x", "dataset=x", "gpus=2", "model.path=x", "data.path=x",
    "trainer.lr=1", "trainer.epochs=1", "trainer.output_dir=x", "rope.type=yarn", "rope.scale=2",
    "tokenizer.pad=x", "launch.gpus=2", "evaluation.length=5", "sweep.names=x", "adapter.r=2",
    "adapter.lora=true", "a.b.c.d=1", "trainer.extra=5", "trainer.extra.learning_rat=1",
    "trainer.extra.learning_rate=1", "trainer.extra.output_dir=x", "trainer.extra.seed=1",
    "trainer.extra.deepspeed=x", "trainer.extra.hub_token=abc", "trainer.extra.no_such_thing=1",
    "model.name_or_path.x=1", "seed.x=1", "+model.x=1", "++model.x=1", "+new=1", "++new.key=1",
    "trainer.lr_scheduler_kwargs.power=nan", "hydra.nothing=1", "hydra.run.dirr=x",
]  # fmt: skip

WRONG_VALUES = [
    "rope=yarnn", "rope=", "rope={method: yarn}", "rope=../yarn", "rope=yarn.yaml",
    "model=none", "model=./no/such", "model=/etc", "model={}", "data=chat.jsonl", "data=org/name",
    "data=/etc/passwd", "trainer=fast", "trainer=2", "adapter=Lora", "adapter=dora", "sweep=grid",
    "launch=slurm", "evaluation=all", "experiment=vicuna", "experiment=Demo", "tokenizer=fast",
    "context_length=", "context_length=null", "context_length=16q", "context_length=1.5",
    "context_length=0x10", "context_length=1e3.5", "context_length='16384 tokens'",
    "context_length={}", "context_length=true", "context_length=1_0_0_", "seed=null", "seed=1.5",
    "seed=-1", "seed=4294967296", "trainer.fp16=2", "trainer.fp16=maybe", "trainer.bf16=half",
    "trainer.save_strategy=never", "trainer.save_strategy=Steps", "trainer.parallelism=zero3",
    "trainer.loss_head=triton", "trainer.optim=adamww", "trainer.optim=", "trainer.optim=null",
    "trainer.lr_scheduler_type=cosin", "trainer.report_to=wandv", "trainer.report_to=[1]",
    "trainer.report_to=[[]]", "trainer.report_to={a: b}", "trainer.max_steps=0",
    "trainer.save_total_limit=0", "trainer.save_total_limit=-1", "trainer.learning_rate=0",
    "trainer.learning_rate=-1e-5", "trainer.learning_rate=1e-5e", "trainer.learning_rate=0,1",
    "trainer.resume_from_checkpoint=/no/such", "trainer.gradient_checkpointing_kwargs=3",
    "trainer.gradient_checkpointing_kwargs.every_n_layers=2", "model.dtype=fp8",
    "model.dtype=torch.bfloat16", "model.trust_remote_code=yes_please", "model.name_or_path=",
    "model.name_or_path=null", "model.name_or_path=[a]", "model.name_or_path=/no/such/dir",
    "model.name_or_path=./typo", "model.name_or_path=a/b/c", "model.name_or_path='a b'",
    "model.name_or_path=pkg://no_such_package/x", "model.name_or_path=pkg://",
    "model.name_or_path=https://user:pw@host/model", "model.name_or_path=it's",
    "model.name_or_path=${nothing}", "model.name_or_path=${oc.env:NO_SUCH_VARIABLE}",
    "model.name_or_path=${", "model.name_or_path=???", "tokenizer.padding_side=middle",
     "tokenizer.model_max_length=16",
    "tokenizer.chat_template=/no/such.jinja", "tokenizer.name_or_path=/no/such",
    "data.train=", "data.train=null", "data.train=5", "data.train=[]", "data.train=[1]",
    "data.train=[{}]", "data.train=[{path: 1}]", "data.train=[{weight: 2}]",
    "data.train=[{path: x.json}]", "data.train={path: x.json}", "data.train=missing.json",
    "data.train=/a=b.json", "data.train=/a[1].json", "data.train=/a{1}.json",
    "data.train=/it's.json",
    "data.train=größe.json", "data.train='/a b'", "data.train=missing/*.jsonl", "data.train=**/*.x",
    "data.train=glob(*)", "data.train=~/no/such/file", "data.train=pkg://no_such/x.json",
    "data.train=https://user:pw@host/x.json", "data.train=org/name:", "data.train=???",
    "data.train=" + "x" * 3000, "data.eval=missing.json", "data.format=csv",
    "data.packing=yes", "data.overlong=keep", "data.on_bad_record=ignore", "data.train_on=user",
    "data.num_proc=0", "data.max_examples=0", "adapter.method=dora", "adapter.rank=0",
    "adapter.target_modules=5.5.5=", "adapter.dropout=1", "launch.device=tpu", "launch.nnodes=0",
    "launch.rdzv_endpoint=nohost", "launch.rdzv_endpoint=host:port",
    "launch.rdzv_endpoint='http://host:1'", "launch.nproc_per_node=nan",
    "launch.nproc_per_node=1.5", "launch.nproc_per_node=100000000000000000000",
    "launch.nnodes=2", "launch.nproc_per_node=many", "launch.nproc_per_node=0",
    "launch.node_rank=1", "sweep.budget=time", "rope.factor=0.5", "rope.method=drop",
    "rope.method=longrope", "rope.theta=1", "rope.beta_fast=3", "rope.short_factor=2",
    "rope.factor_rounding=up", "evaluation.lengths=[0]", "evaluation.lengths=16q",
    "evaluation.documents=/no/such", "trainer.context_parallel_size=0",
]  # fmt: skip

SEVERAL = [
    ["rope=abf", "rope.theta=big"], ["rope=longrope"], ["rope=linear,yarn"],
    ["context_length=4096,8192"], ["trainer.bf16=true", "trainer.fp16=true"],

    ["rope=linear", "rope.beta_fast=3"], ["rope=abf", "rope.theta=???"],
    ["trainer.on_loss_spike=rewind", "trainer.save_strategy=no"],
    ["trainer.on_loss_spike=rewind", "trainer.save_total_limit=1"],
    ["trainer.fp16=true", "launch.device=cpu"], ["trainer.parallelism=fsdp", "adapter=qlora"],
    ["adapter=lora", "adapter.quantization=fp4"],
    ["trainer.parallelism=fsdp", "trainer.optim=muon"],
    ["tokenizer=slow", "tokenizer.model_max_length=16"], ["rope=linear", "rope=yarnn"],
    ["--cfg"], ["--info", "nothing=1"], ["--config-name", "other"], ["--run", "--multirun"],
    ["--multirun", "rope=glob(zz*)"], ["--multirun", "context_length=4096,x"],
    ["--multirun", "context_length=range(1,3)"], ["--help", "nothing"], ["--help", "rope=yarnn"],
]  # fmt: skip

BARE = [
    [], ["context_length=4096"], ["model.name_or_path=org/name"], ["data.train=org/name"],
    ["model=smollm2"], ["data=sharegpt"], ["experiment=fastchat_vicuna"], ["experiment=vicuna_7b"],
    ["data=custom", "model=smollm2"], ["model=custom", "data=sharegpt"], ["rope=yarn"],
    ["--multirun", "seed=1,2"], ["trainer=debug", "adapter=lora"],
]  # fmt: skip


def numbers() -> list[list[str]]:
    """Return a command for every number setting and two of the values that none of them takes."""
    keys = [key for key in NUMBER_RANGES if key in all_settings()]
    return [[f"{key}={OUT_OF_RANGE[(n + i) % 9]}"] for n, key in enumerate(keys) for i in (0, 4)]


def hostile_commands() -> list[list[str]]:
    """Return all of them, as the words after the program's name."""
    own = ["model.name_or_path=org/model", "data.train=org/data"]
    single = [[word] for word in [*WRONG_WORDS, *WRONG_KEYS, *WRONG_VALUES]]
    return [[*own, *words] for words in [*single, *SEVERAL, *numbers()]] + BARE
