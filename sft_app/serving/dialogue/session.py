"""A chat, turn by turn: commands, questions, and what happens when the context is full."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sft_app.serving.dialogue.dialogue_turns import DialogueTurns
from sft_app.serving.dialogue.speaker import Sampling, Speaker

Say = Callable[[str], None]
"""Shows a piece of text as it is, without a line break of its own."""

HELP = """\
/reset         forget what was said (the system turn stays)
/system TEXT   set the system turn; without TEXT, remove it
/save FILE     append the conversation to a JSON Lines file that training can read
/load FILE     go on from the last conversation in a file
/exit          leave (so does Ctrl-D); Ctrl-C ends an answer
"""


class Session:
    """Holds a conversation with one model, or the same one with two side by side."""

    def __init__(self, speakers: Sequence[Speaker], sampling: Sampling, say: Say) -> None:
        self.speakers = list(speakers)
        self.conversations = [DialogueTurns() for _ in speakers]
        self.sampling = sampling
        self.say = say

    def take(self, line: str) -> bool:
        """Do what one line says; False when it says to leave."""
        if not line.strip():
            return True
        if not line.startswith("/"):
            self.ask(line)
            return True
        command, _, argument = line.strip().partition(" ")
        argument = argument.strip()
        if command in ("/exit", "/quit"):
            return False
        if command == "/reset":
            for conversation in self.conversations:
                conversation.reset()
            self.say("Forgotten.\n")
        elif command == "/system":
            for conversation in self.conversations:
                conversation.set_system(argument)
            self.say("The system turn is set.\n" if argument else "There is no system turn now.\n")
        elif command in ("/save", "/load"):
            self._file(command, argument)
        else:
            self.say(HELP if command == "/help" else f"{command} is not known.\n{HELP}")
        return True

    def ask(self, question: str) -> bool:
        """Put a question to every model, and say each answer as it comes; False: one has none.

        A question without an answer is forgotten, and it is said why.
        """
        answered = True
        for speaker, conversation in zip(self.speakers, self.conversations, strict=True):
            if len(self.speakers) > 1:
                self.say(f"[{speaker.name}]\n")
            before = list(conversation.messages)
            try:
                found = self._answer(speaker, conversation, question)
            except (RuntimeError, ValueError) as error:  # the template's, or out of memory
                self.say(f"No answer: {' '.join(str(error).split())}\n")
                found = False
            if not found:
                conversation.messages = before
                answered = False
        return answered

    def _answer(self, speaker: Speaker, conversation: DialogueTurns, question: str) -> bool:
        conversation.add("user", question)
        if not self._make_room(speaker, conversation):
            return False
        try:
            for piece in speaker.answer(conversation, self.sampling):
                self.say(piece)
        except KeyboardInterrupt:
            self.say(" (ended)")
        conversation.messages.append(speaker.message())
        self.say(f"\n{self.usage(speaker, conversation)}\n")
        return True

    def usage(self, speaker: Speaker, conversation: DialogueTurns) -> str:
        """Return how much of the context is used, and what has cut an answer off."""
        used = speaker.used(conversation)
        limit = speaker.context_length
        full = limit is not None and speaker.prompt_length + speaker.answer_length >= limit
        ended = "; the answer ends here, for the context is full" if full else ""
        if speaker.answer_is_cut and not full:
            ended = f"; the answer ends here, after --max-new-tokens={self.sampling.max_new_tokens}"
        if limit is None:
            return f"({used:,} tokens{ended})"
        return f"({min(used, limit):,} of {limit:,} tokens{ended})"

    def _make_room(self, speaker: Speaker, conversation: DialogueTurns) -> bool:
        """Drop the oldest turns while the prompt leaves no room; False where it never will."""
        limit = speaker.context_length
        dropped = 0
        while limit is not None and speaker.used(conversation) >= limit:
            if not conversation.forget_oldest():
                self.say(
                    f"This question alone takes {speaker.used(conversation):,} of {limit:,} "
                    "tokens: ask a shorter one.\n"
                )
                return False
            dropped += 1
        if dropped:
            turns = "question" if dropped == 1 else "questions"
            self.say(
                f"(The context is full: the oldest {dropped} {turns} with answers are dropped.)\n"
            )
        return True

    def _file(self, command: str, argument: str) -> None:
        if not argument:
            self.say(f"{command} needs a file.\n")
            return
        path = Path(argument).expanduser()
        try:
            if command == "/save":
                self.conversations[0].save(path)
                self.say(f"Saved to {path}.\n")
            else:
                for conversation in self.conversations:
                    conversation.load(path)
                self.say(f"Loaded {len(self.conversations[0].messages)} turns.\n")
        except (OSError, ValueError) as error:
            self.say(f"{error}\n")
