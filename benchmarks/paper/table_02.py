"""Table II: comparison to state-of-the-art methods."""

from .rows import AVERAGE, Row, Table, printed, recall_columns
from .trained import BASE, LARGE, released_rerank

TABLE = Table(
    number="II", title="Comparison to state-of-the-art methods on VPR benchmark datasets",
    columns=recall_columns(
        ("Pitts30k-test", "Tokyo24/7", "MSLS-val", "MSLS-challenge", "Nordland", AVERAGE), (1, 5, 10)),
    rows=(
        Row("Patch-NetVLAD", printed(
            "88.7 94.5 95.9 86.0 88.6 90.5 79.5 86.2 87.7 48.1 57.6 60.5 44.9 50.2 52.2 69.4 75.4 77.4")),
        Row("TransVPR", printed(
            "89.0 94.9 96.2 79.0 82.2 85.1 86.8 91.2 92.4 63.9 74.0 77.5 63.5 68.5 70.2 76.4 82.2 84.3")),
        Row("SelaVPR", printed(
            "92.8 96.8 97.7 94.0 96.8 97.5 90.8 96.4 97.2 73.5 87.5 90.6 87.3 93.8 95.6 87.7 94.3 95.7")),
        Row("NetVLAD", printed(
            "81.9 91.2 93.7 60.6 68.9 74.6 53.1 66.5 71.1 35.1 47.4 51.7 6.4 10.1 12.5 47.4 56.8 60.7")),
        Row("SFRS", printed(
            "89.4 94.7 95.9 81.0 88.3 92.4 69.2 80.3 83.1 41.6 52.0 56.3 16.1 23.9 28.4 59.5 67.8 71.2")),
        Row("CosPlace", printed(
            "88.4 94.5 95.7 81.9 90.2 92.7 82.8 89.7 92.0 61.4 72.0 76.6 58.5 73.7 79.4 74.6 84.0 87.3")),
        Row("MixVPR", printed(
            "91.5 95.5 96.3 85.1 91.7 94.3 88.0 92.7 94.6 64.0 75.9 80.6 76.2 86.9 90.3 81.0 88.5 91.2")),
        Row("EigenPlaces", printed(
            "92.5 96.8 97.6 93.0 96.2 97.5 89.1 93.8 95.0 67.4 77.1 81.7 71.2 83.8 88.1 82.6 89.5 92.0")),
        Row("CricaVPR", printed(
            "94.9 97.3 98.2 93.0 97.5 98.1 90.0 95.4 96.4 69.0 82.1 85.7 90.7 96.3 97.6 87.5 93.7 95.2")),
        Row("SALAD", printed(
            "92.5 96.4 97.5 94.6 97.5 97.8 92.2 96.4 97.0 75.0 88.8 91.3 89.7 95.5 97.0 88.8 94.9 96.1")),
        Row("SALAD-CM", printed(
            "92.7 96.8 97.9 96.8 97.5 97.8 94.2 97.2 97.4 82.7 91.2 92.7 96.0 98.5 99.2 92.5 96.2 97.0")),
        Row("BoQ", printed(
            "93.7 97.1 97.9 98.1 98.1 98.7 93.8 96.8 97.0 79.0 90.3 92.0 90.6 96.0 97.5 91.0 95.7 96.6")),
        Row("SelaVPR++ (resource)", printed(
            "93.3 96.6 97.6 97.5 98.7 99.0 94.5 96.9 97.3 81.0 91.9 93.7 94.6 97.8 98.3 92.2 96.4 97.2"),
            released_rerank(BASE)),
        Row("SelaVPR++ (performance)", printed(
            "94.4 97.5 98.1 98.1 98.7 99.4 94.5 98.0 98.2 84.0 93.7 94.4 97.2 99.0 99.4 93.6 97.4 97.9"),
            released_rerank(LARGE)),
    ),
    notes=("CricaVPR correlates the images of a place across the batch; the paper keeps it out of the comparison on "
           "Pitts30k.",))
