"""`questions`: what a model still knows of a long text, asked while the text streams through it."""

from sinkctl.tasks.questions.asking import Answer, Progress, QuestionsRun
from sinkctl.tasks.questions.task import Outcome, run

__all__ = ["Answer", "Outcome", "Progress", "QuestionsRun", "run"]
