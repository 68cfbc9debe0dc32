"""The statistics in the words of the report: what each is called, its unit, what a plain reader should know."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistic:
    """How one statistic is spoken of.

    Attributes:
        key: its name in heads.parquet.
        label: its name in the report.
        unit: unit of value and effect, as printed after a number.
        axis: unit in the words of an axis.
        meaning: one plain sentence.
        tested: compared with the nulls; else only described, with an interval of its value.
        root: shown as the square root of what is recorded.
    """

    key: str
    label: str
    unit: str
    axis: str
    meaning: str
    tested: bool = False
    root: bool = False


TESTED = (
    Statistic(
        "semantic_pull",
        "Pull toward keypoints",
        "SD",
        "standard deviations of keypoint concentration",
        "How far a patch's attention moves toward patches that are rich in keypoints.",
        tested=True,
    ),
    Statistic(
        "partial_pull",
        "Pull beyond gradient and centre",
        "SD",
        "standard deviations of keypoint concentration",
        "The same after taking out what gradient energy and closeness to the centre already explain.",
        tested=True,
    ),
    Statistic(
        "assortativity",
        "Like attends to like",
        "",
        "correlation",
        "Whether keypoint-rich patches attend to rich ones, and poor to poor.",
        tested=True,
    ),
    Statistic(
        "cls_pull",
        "Class token's pull",
        "SD",
        "standard deviations of keypoint concentration",
        "How far the class token's attention moves toward keypoint-rich patches.",
        tested=True,
    ),
)
DESCRIBED = (
    Statistic(
        "class_mass",
        "Attention on the class token",
        "",
        "share of attention",
        "Share of a patch's attention that goes to the class token.",
    ),
    Statistic(
        "register_mass",
        "Attention on registers",
        "",
        "share of attention",
        "Share of a patch's attention that goes to register tokens.",
    ),
    Statistic(
        "entropy",
        "Entropy",
        "nat",
        "nat",
        "How widely a patch spreads its attention: 0 on one token, ln T when even over T tokens.",
    ),
    Statistic(
        "mean_squared_distance",
        "Distance",
        "px",
        "px",
        "Root of the mean squared distance from a patch to what it attends to.",
        root=True,
    ),
)
RIVALS = (
    Statistic("gradient_pull", "Gradient energy", "SD", "SD", "Pull toward patches with strong gradients."),
    Statistic("centre_pull", "Centre", "SD", "SD", "Pull toward the centre of the image."),
    Statistic("fast_pull", "FAST corners", "SD", "SD", "Pull toward patches with FAST corners."),
    Statistic("orb_pull", "ORB keypoints", "SD", "SD", "Pull toward patches with ORB keypoints."),
)
STATISTICS = (*TESTED, *DESCRIBED, *RIVALS)
