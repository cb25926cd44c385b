"""RAFT (Alex et al. 2021, https://arxiv.org/abs/2109.14076): eleven tasks of 50 labelled rows each.

The files are those of the data set `ought/raft` on the hub, `raft/data/TASK/train.csv` and
`test_unlabeled.csv`, or `.jsonl` as `datasets` writes it, whose `Label` is a number from 1. The
form is T5's, "raft_overruling sentence: ...", with the columns that the benchmark's own prompts
name. The test labels are held back: those answers are for the leaderboard.
"""

import seqio

from prompt_jax.metrics.text import accuracy, mean_class_f1
from prompt_jax.tasks.layouts import JSONL, comma_separated
from prompt_jax.tasks.official import Benchmark, File, register

HOME = "https://huggingface.co/datasets/ought/raft"
BANKING = """Refund_not_showing_up activate_my_card age_limit apple_pay_or_google_pay atm_support
    automatic_top_up balance_not_updated_after_bank_transfer
    balance_not_updated_after_cheque_or_cash_deposit beneficiary_not_allowed cancel_transfer
    card_about_to_expire card_acceptance card_arrival card_delivery_estimate card_linking
    card_not_working card_payment_fee_charged card_payment_not_recognised
    card_payment_wrong_exchange_rate card_swallowed cash_withdrawal_charge
    cash_withdrawal_not_recognised change_pin compromised_card contactless_not_working
    country_support declined_card_payment declined_cash_withdrawal declined_transfer
    direct_debit_payment_not_recognised disposable_card_limits edit_personal_details
    exchange_charge exchange_rate exchange_via_app extra_charge_on_statement failed_transfer
    fiat_currency_support get_disposable_virtual_card get_physical_card getting_spare_card
    getting_virtual_card lost_or_stolen_card lost_or_stolen_phone order_physical_card
    passcode_forgotten pending_card_payment pending_cash_withdrawal pending_top_up
    pending_transfer pin_blocked receiving_money request_refund reverted_card_payment?
    supported_cards_and_currencies terminate_account top_up_by_bank_transfer_charge
    top_up_by_card_charge top_up_by_cash_or_cheque top_up_failed top_up_limits top_up_reverted
    topping_up_by_card transaction_charged_twice transfer_fee_charged transfer_into_account
    transfer_not_received_by_recipient transfer_timing unable_to_verify_identity
    verify_my_identity verify_source_of_funds verify_top_up virtual_card_not_working
    visa_or_mastercard why_verify_identity wrong_amount_of_cash_received
    wrong_exchange_rate_for_cash_withdrawal"""

# task: (columns of text, labels in the order of their numbers, rows of the test split)
TASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "ade_corpus_v2": (("Sentence",), ("ADE-related", "not ADE-related"), 5000),
    "banking_77": (("Query",), tuple(BANKING.split()), 5000),
    "neurips_impact_statement_risks": (
        ("Impact statement", "Paper title"),
        ("doesn't mention a harmful application", "mentions a harmful application"),
        150,
    ),
    "one_stop_english": (("Article",), ("advanced", "elementary", "intermediate"), 516),
    "overruling": (("Sentence",), ("not overruling", "overruling"), 2350),
    "semiconductor_org_types": (
        ("Organization name", "Paper title"),
        ("company", "research institute", "university"),
        449,
    ),
    "systematic_review_inclusion": (
        ("Title", "Abstract", "Journal"),
        ("included", "not included"),
        2243,
    ),
    "tai_safety_research": (
        ("Title", "Abstract Note", "Publication Title", "Item Type", "Publication Year"),
        ("TAI safety research", "not TAI safety research"),
        1639,
    ),
    "terms_of_service": (("Sentence",), ("not potentially unfair", "potentially unfair"), 5000),
    "tweet_eval_hate": (("Tweet",), ("hate speech", "not hate speech"), 2966),
    "twitter_complaints": (("Tweet text",), ("complaint", "no complaint"), 3399),
}


def _files(name: str, columns: dict[str, str], labels: tuple[str, ...]) -> tuple[File, ...]:
    label = {} if name == "test_unlabeled" else {"label": "Label"}
    numbers = tuple(range(1, len(labels) + 1))
    shared = {**columns, "idx": "ID", **label}
    return (
        File(f"{name}.csv", comma_separated(), shared),
        File(f"{name}.jsonl", JSONL, shared, labels=numbers),
    )


def benchmark(task: str) -> Benchmark:
    """One of the eleven."""
    texts, labels, rows = TASKS[task]
    columns = {text.lower(): text for text in texts}
    names = {"train": "train", "test": "test_unlabeled"}
    return Benchmark(
        prefix=f"raft_{task}",
        fields=tuple(columns),
        labels=labels,
        choices=labels,
        folder=f"raft/data/{task}",
        files={split: _files(name, columns, labels) for split, name in names.items()},
        home=HOME,
        licence="each task's own, see its card",
        sizes={"train": 50, "test": rows},
        version="1.1.0",
    )


for _task in TASKS:
    _data = benchmark(_task)
    register(f"raft_{_task}", _data, [mean_class_f1(_data.choices), accuracy])
seqio.MixtureRegistry.add("raft", [(f"raft_{task}", 1.0) for task in TASKS])
