"""The theorems of the demo: picked by hand, or made from forms that are true whatever they are filled with.

Each is a statement and a proof of it, one line of tactics, that Coq 8.16 takes after `HEADER`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations

HEADER = "Require Import Arith Lia List Bool.\nImport ListNotations."

Theorem = tuple[str, str]
"""Statement and proof."""

LOGIC: tuple[Theorem, ...] = (
    ("forall A : Prop, A -> A", "intros A H. exact H."),
    ("forall A B : Prop, A -> B -> A", "intros A B H _. exact H."),
    ("forall A B : Prop, A -> (A -> B) -> B", "intros A B H F. apply F. exact H."),
    ("forall A B C : Prop, (A -> B -> C) -> B -> A -> C", "intros A B C F HB HA. apply F; assumption."),
    ("forall A B C : Prop, (A -> B -> C) -> (A -> B) -> A -> C", "intros A B C F G H. apply F; auto."),
    ("forall A B C : Prop, (A /\\ B -> C) -> A -> B -> C", "intros A B C F HA HB. apply F. split; assumption."),
    ("forall A B C : Prop, (A -> B -> C) -> A /\\ B -> C", "intros A B C F [HA HB]. apply F; assumption."),
    ("forall A B C : Prop, (A -> C) -> (B -> C) -> A \\/ B -> C", "intros A B C F G [H | H]; auto."),
    ("forall A B C : Prop, (A \\/ B -> C) -> (A -> C) /\\ (B -> C)", "tauto."),
    ("forall A B C : Prop, (A -> C) /\\ (B -> C) -> A \\/ B -> C", "tauto."),
    ("forall A B C : Prop, (A -> B) /\\ (A -> C) -> A -> B /\\ C", "tauto."),
    ("forall A B C : Prop, A /\\ (B \\/ C) -> (A /\\ B) \\/ (A /\\ C)", "tauto."),
    ("forall A B C : Prop, (A /\\ B) \\/ (A /\\ C) -> A /\\ (B \\/ C)", "tauto."),
    ("forall A B C : Prop, A \\/ (B /\\ C) -> (A \\/ B) /\\ (A \\/ C)", "tauto."),
    ("forall A B C : Prop, (A \\/ B) /\\ (A \\/ C) -> A \\/ (B /\\ C)", "tauto."),
    ("forall A : Prop, A -> ~ ~ A", "intros A H N. apply N. exact H."),
    ("forall A : Prop, ~ ~ ~ A -> ~ A", "tauto."),
    ("forall A : Prop, ~ (A /\\ ~ A)", "intros A [H N]. apply N. exact H."),
    ("forall A : Prop, ~ ~ (A \\/ ~ A)", "tauto."),
    ("forall A : Prop, ~ (A <-> ~ A)", "tauto."),
    ("forall A B : Prop, (A -> B) -> ~ B -> ~ A", "intros A B F N H. apply N. apply F. exact H."),
    ("forall A B : Prop, ~ A -> A -> B", "intros A B N H. contradiction."),
    ("forall A B : Prop, ~ (A \\/ B) -> ~ A /\\ ~ B", "tauto."),
    ("forall A B : Prop, ~ A /\\ ~ B -> ~ (A \\/ B)", "tauto."),
    ("forall A B : Prop, ~ A \\/ ~ B -> ~ (A /\\ B)", "tauto."),
    ("forall A B : Prop, ~ A \\/ B -> A -> B", "tauto."),
    ("forall A B : Prop, A \\/ B -> ~ A -> B", "tauto."),
    ("forall A B : Prop, (A <-> B) -> (B <-> A)", "tauto."),
    ("forall A B C : Prop, (A <-> B) -> (B <-> C) -> (A <-> C)", "tauto."),
    ("forall A B : Prop, (A <-> B) -> (~ A <-> ~ B)", "tauto."),
    ("forall A B : Prop, A /\\ B <-> B /\\ A", "tauto."),
    ("forall A B : Prop, A \\/ B <-> B \\/ A", "tauto."),
    ("forall A : Prop, A /\\ True <-> A", "tauto."),
    ("forall A : Prop, A \\/ False <-> A", "tauto."),
    ("forall A : Prop, A /\\ False <-> False", "tauto."),
    ("forall A : Prop, A \\/ True <-> True", "tauto."),
    ("forall A B : Prop, A /\\ (A \\/ B) <-> A", "tauto."),
    ("forall A B : Prop, A \\/ (A /\\ B) <-> A", "tauto."),
)

INDUCTION: tuple[Theorem, ...] = (
    ("forall n : nat, n + 0 = n", "induction n; simpl; auto."),
    ("forall n : nat, n * 0 = 0", "induction n; simpl; auto."),
    ("forall n : nat, n * 1 = n", "induction n; simpl; auto."),
    ("forall n m : nat, n + S m = S (n + m)", "induction n; simpl; auto."),
    ("forall n m p : nat, n + (m + p) = n + m + p", "induction n; simpl; auto."),
    ("forall n : nat, n - n = 0", "induction n; simpl; auto."),
    ("forall n : nat, 0 <= n", "intros. lia."),
    ("forall n : nat, Nat.eqb n n = true", "induction n; simpl; auto."),
    ("forall n : nat, Nat.leb n n = true", "induction n; simpl; auto."),
    ("forall n : nat, Nat.leb n (S n) = true", "induction n; simpl; auto."),
    ("forall n : nat, Nat.max n n = n", "induction n; simpl; auto."),
    ("forall n : nat, Nat.min n n = n", "induction n; simpl; auto."),
    ("forall n : nat, Nat.max n 0 = n", "intros []; reflexivity."),
    ("forall n : nat, Nat.min n 0 = 0", "intros []; reflexivity."),
    ("forall n : nat, n <> S n", "intros n. lia."),
    ("forall n : nat, n = 0 \\/ 0 < n", "intros n. lia."),
    ("forall n m : nat, S n = S m -> n = m", "intros n m H. injection H. auto."),
    ("forall n m : nat, n <= m \\/ m <= n", "intros. lia."),
    ("forall n m : nat, n < m \\/ n = m \\/ m < n", "intros. lia."),
    ("forall n m : nat, n <= m -> m <= n -> n = m", "intros. lia."),
    ("forall n m : nat, n * m = m * n", "intros. ring."),
    ("forall n m p : nat, n * (m + p) = n * m + n * p", "intros. ring."),
    ("forall n m p : nat, (n + m) * p = n * p + m * p", "intros. ring."),
    ("forall n m p : nat, n * (m * p) = n * m * p", "intros. ring."),
    ("forall n m : nat, (n + m) * (n + m) = n * n + 2 * n * m + m * m", "intros. ring."),
    ("forall n : nat, exists m : nat, m = S n", "intros n. exists (S n). reflexivity."),
    ("forall n : nat, exists m : nat, n < m", "intros n. exists (S n). lia."),
    ("forall n : nat, exists m : nat, n + n = 2 * m", "intros n. exists n. lia."),
    ("forall n : nat, Nat.even (n + n) = true", "intros n. replace (n + n) with (2 * n) by lia. apply Nat.even_mul."),
    ("forall n : nat, 0 < n -> exists m : nat, n = S m", "intros [| n] H. lia. exists n. reflexivity."),
)

BOOLEANS: tuple[Theorem, ...] = tuple(
    (statement, f"intros {' '.join(['[]'] * statement.split(' :')[0].count(' '))}; reflexivity.")
    for statement in (
        "forall a : bool, negb (negb a) = a",
        "forall a : bool, a && a = a",
        "forall a : bool, a || a = a",
        "forall a : bool, a && true = a",
        "forall a : bool, a && false = false",
        "forall a : bool, a || false = a",
        "forall a : bool, a || true = true",
        "forall a : bool, a && negb a = false",
        "forall a : bool, a || negb a = true",
        "forall a : bool, xorb a a = false",
        "forall a : bool, xorb a false = a",
        "forall a : bool, xorb a true = negb a",
        "forall a b : bool, a && b = b && a",
        "forall a b : bool, a || b = b || a",
        "forall a b : bool, xorb a b = xorb b a",
        "forall a b : bool, negb (a && b) = negb a || negb b",
        "forall a b : bool, negb (a || b) = negb a && negb b",
        "forall a b : bool, a && (a || b) = a",
        "forall a b : bool, a || (a && b) = a",
        "forall a b : bool, xorb (xorb a b) b = a",
        "forall a b : bool, implb a b = negb a || b",
        "forall a b c : bool, a && (b && c) = a && b && c",
        "forall a b c : bool, a || (b || c) = a || b || c",
        "forall a b c : bool, a && (b || c) = a && b || a && c",
        "forall a b c : bool, a || (b && c) = (a || b) && (a || c)",
        "forall a b c : bool, xorb a (xorb b c) = xorb (xorb a b) c",
    )
)

LISTS: tuple[Theorem, ...] = (
    ("forall l : list nat, l ++ [] = l", "induction l; simpl; congruence."),
    ("forall l m n : list nat, l ++ (m ++ n) = (l ++ m) ++ n", "induction l; simpl; intros; congruence."),
    ("forall l m : list nat, length (l ++ m) = length l + length m", "induction l; simpl; auto."),
    ("forall l m : list nat, length (l ++ m) = length (m ++ l)", "intros. rewrite !app_length. lia."),
    ("forall l : list nat, map (fun x => x) l = l", "induction l; simpl; congruence."),
    ("forall l : list nat, length (map S l) = length l", "induction l; simpl; auto."),
    ("forall l m : list nat, map S (l ++ m) = map S l ++ map S m", "induction l; simpl; intros; congruence."),
    ("forall l : list nat, map pred (map S l) = l", "induction l; simpl; congruence."),
    ("forall l : list nat, length (rev l) = length l", "apply rev_length."),
    ("forall l : list nat, rev (rev l) = l", "apply rev_involutive."),
    ("forall l m : list nat, rev (l ++ m) = rev m ++ rev l", "apply rev_app_distr."),
    ("forall l : list nat, map S (rev l) = rev (map S l)", "apply map_rev."),
    ("forall (n : nat) (l : list nat), n :: l <> []", "intros. discriminate."),
    ("forall (n : nat) (l : list nat), In n (n :: l)", "intros. simpl. auto."),
    ("forall (n : nat) (l : list nat), In n (l ++ [n])", "intros. apply in_or_app. simpl. auto."),
    ("forall (n : nat) (l m : list nat), In n l -> In n (l ++ m)", "intros. apply in_or_app. auto."),
    ("forall (n : nat) (l m : list nat), In n m -> In n (l ++ m)", "intros. apply in_or_app. auto."),
    ("forall (n : nat) (l : list nat), length (n :: l) = S (length l)", "reflexivity."),
    ("forall l : list nat, length l = 0 -> l = []", "intros [| n l] H. reflexivity. discriminate."),
    ("forall (n m : nat) (l : list nat), n :: l = m :: l -> n = m", "intros n m l H. congruence."),
)


def orders() -> Iterator[Theorem]:
    """What a conjunction has in one order, it has in another; and what one of two has, one of three has."""
    for length in (2, 3):
        for taken in permutations("ABC", length):
            names, goal = "A B C", " /\\ ".join(taken)
            yield (
                f"forall {names} : Prop, A /\\ B /\\ C -> {goal}",
                "intros A B C [HA [HB HC]]. repeat split; assumption.",
            )
    for taken in combinations("ABCD", 2):
        either = " \\/ ".join(taken)
        yield f"forall A B C D : Prop, {either} -> A \\/ B \\/ C \\/ D", "tauto."
        yield f"forall A B C D : Prop, A /\\ B /\\ C /\\ D -> {either}", "tauto."


def chains() -> Iterator[Theorem]:
    """From A to the last of a chain of implications, which stand in any order."""
    for order in permutations(("A -> B", "B -> C", "C -> D")):
        steps = " -> ".join(f"({step})" for step in order)
        yield f"forall A B C D : Prop, {steps} -> A -> D", "auto."
        yield f"forall A B C D : Prop, {steps} -> ~ D -> ~ A", "tauto."


def linear() -> Iterator[Theorem]:
    """Linear arithmetic over the natural numbers, with small numbers in it."""
    for a in range(1, 5):
        yield f"forall n m : nat, n + {a} + m = m + n + {a}", "intros. lia."
        yield f"forall n m : nat, {a} * n + m = m + {a} * n", "intros. lia."
        yield f"forall n m : nat, n <= m -> n <= m + {a}", "intros. lia."
        yield f"forall n m : nat, n < m -> n + {a} < m + {a}", "intros. lia."
        yield f"forall n m : nat, n + {a} = m + {a} -> n = m", "intros. lia."
        yield f"forall n m p : nat, n <= m -> m <= p -> n <= p + {a}", "intros. lia."
        yield f"forall n : nat, n < {a} -> n < {a + 2}", "intros. lia."
        yield f"forall n : nat, n + {a} <> n", "intros. lia."
        for b in range(1, 4):
            yield f"forall n : nat, {a} * n + {b} * n = {a + b} * n", "intros. lia."
            yield f"forall n : nat, n + {a} <= n + {a + b}", "intros. lia."


def sums() -> Iterator[Theorem]:
    """Sums that only have to be worked out, and numbers that have to be found."""
    for a in range(2, 8):
        for b in range(a, 8, 2):
            yield f"{a} + {b} * 2 = {a + 2 * b}", "reflexivity."
            yield f"exists n : nat, n + {a} = {a + b}", f"exists {b}. reflexivity."
            yield f"exists n : nat, {a} * n = {a * b}", f"exists {b}. reflexivity."
            yield f"{a} < {a + b}", "lia."


def steps() -> Iterator[Theorem]:
    """By induction, with another number or function each time."""
    for a in range(2, 6):
        yield f"forall n : nat, Nat.leb n (n + {a}) = true", "induction n; simpl; auto."
        yield f"forall n : nat, {a} * n = n * {a}", "intros. lia."
        yield f"forall n m : nat, n + (m + {a}) = (n + m) + {a}", "induction n; simpl; auto."
        yield f"forall l : list nat, length (map (fun x => x + {a}) l) = length l", "induction l; simpl; auto."
        yield f"forall l : list nat, length (l ++ [{a}]) = S (length l)", "induction l; simpl; auto."
        yield f"forall l : list nat, l ++ [{a}] <> []", "intros [| n l]; discriminate."


def theorems() -> list[Theorem]:
    """Every theorem, each statement once."""
    made = (*LOGIC, *INDUCTION, *BOOLEANS, *LISTS, *orders(), *chains(), *linear(), *sums(), *steps())
    return list(dict(made).items())
