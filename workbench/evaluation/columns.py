"""The paper's columns: accuracies of MMLU's and C-Eval's subjects, averaged by discipline.

MMLU weighs every question alike (Hendrycks et al. 2021, ``evaluate.py``), C-Eval every subject (Huang et al. 2023,
section 4): the averages here do the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DISCIPLINES = ("STEM", "Social", "Humanities", "Others")
AVERAGE, HARD = "Average", "Avg(Hard)"

# C-Eval's subject_mapping.json; lm-eval has the subjects, not their disciplines.
_CEVAL = {
    "STEM": """computer_network operating_system computer_architecture college_programming college_physics
        college_chemistry advanced_mathematics probability_and_statistics discrete_mathematics electrical_engineer
        metrology_engineer high_school_mathematics high_school_physics high_school_chemistry high_school_biology
        middle_school_mathematics middle_school_biology middle_school_physics middle_school_chemistry
        veterinary_medicine""",
    "Social": """college_economics business_administration marxism mao_zedong_thought education_science
        teacher_qualification high_school_politics high_school_geography middle_school_politics
        middle_school_geography""",
    "Humanities": """modern_chinese_history ideological_and_moral_cultivation logic law
        chinese_language_and_literature art_studies professional_tour_guide legal_professional high_school_chinese
        high_school_history middle_school_history""",
    "Others": """civil_servant sports_science plant_protection basic_medicine clinical_medicine
        urban_and_rural_planner accountant fire_engineer environmental_impact_assessment_engineer tax_accountant
        physician""",
}
_CEVAL_HARD = """advanced_mathematics discrete_mathematics probability_and_statistics college_chemistry college_physics
    high_school_mathematics high_school_chemistry high_school_physics"""
_MMLU_TAGS = {
    "mmlu_stem_tasks": "STEM",
    "mmlu_social_sciences_tasks": "Social",
    "mmlu_humanities_tasks": "Humanities",
    "mmlu_other_tasks": "Others",
}


@dataclass(frozen=True)
class SubjectScore:
    """Accuracy (0 to 1) over a number of questions."""

    accuracy: float
    questions: int


@dataclass(frozen=True)
class Benchmark:
    """A harness group whose tasks are ``prefix`` + subject; ``disciplines`` maps each subject to its column."""

    prefix: str
    disciplines: Mapping[str, str]
    hard: frozenset[str]
    by_question: bool

    def subject(self, task: str) -> str | None:
        """The subject that a harness task asks about, ``None`` for another benchmark's task."""
        subject = task.removeprefix(self.prefix)
        return subject if task.startswith(self.prefix) and subject in self.disciplines else None

    def columns(self, scores: Mapping[str, SubjectScore]) -> dict[str, float]:
        """Accuracy in percent by column; a column none of whose subjects was asked is left out."""
        members = {name: [s for s in scores if self.disciplines[s] == name] for name in DISCIPLINES}
        members |= {AVERAGE: list(scores), HARD: [subject for subject in scores if subject in self.hard]}
        return {name: self._mean([scores[s] for s in subjects]) for name, subjects in members.items() if subjects}

    def _mean(self, scores: list[SubjectScore]) -> float:
        weights = [score.questions if self.by_question else 1 for score in scores]
        return 100 * sum(w * s.accuracy for w, s in zip(weights, scores, strict=True)) / sum(weights)


@cache
def benchmarks() -> dict[str, Benchmark]:
    """By the name of their harness group; MMLU's disciplines are read from the installed harness's task files."""
    ceval = {subject: discipline for discipline, subjects in _CEVAL.items() for subject in subjects.split()}
    return {
        "mmlu": Benchmark("mmlu_", _mmlu_disciplines(), frozenset(), by_question=True),
        "ceval-valid": Benchmark("ceval-valid_", ceval, frozenset(_CEVAL_HARD.split()), by_question=False),
    }


def _mmlu_disciplines() -> dict[str, str]:
    import lm_eval  # noqa: PLC0415 - slow, and an optional extra
    import yaml  # noqa: PLC0415

    files = (Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default").glob("mmlu_*.yaml")
    tasks = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    return {task["task"].removeprefix("mmlu_"): _MMLU_TAGS[task["tag"]] for task in tasks}
