//! Chains of operators: how long they are, found without recursion, and chains of AND or OR made shallow.
//!
//! `a OR b OR c OR …` comes out of the parser as a tree as deep as the chain is long. AND and OR are associative, in SQL's
//! three-valued logic too, so a long chain becomes a balanced tree before anybody walks it.

use std::mem;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value};

/// Chains longer than this are balanced; shorter ones keep their look in EXPLAIN.
const BALANCED_FROM: usize = 32;

/// How many levels the tree goes down by first operands alone.
pub(super) fn chain_length(mut expr: &Expr) -> usize {
    let mut length = 0;
    while let Some(next) = first_operand(expr) {
        expr = next;
        length += 1;
    }
    length
}

/// The operand that a parser puts there by looping instead of recursing.
fn first_operand(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::BinaryOp { left: first, .. }
        | Expr::IsDistinctFrom(first, _)
        | Expr::IsNotDistinctFrom(first, _)
        | Expr::AnyOp { left: first, .. }
        | Expr::AllOp { left: first, .. }
        | Expr::IsFalse(first)
        | Expr::IsNotFalse(first)
        | Expr::IsTrue(first)
        | Expr::IsNotTrue(first)
        | Expr::IsNull(first)
        | Expr::IsNotNull(first)
        | Expr::IsUnknown(first)
        | Expr::IsNotUnknown(first)
        | Expr::IsNormalized { expr: first, .. }
        | Expr::InList { expr: first, .. }
        | Expr::InSubquery { expr: first, .. }
        | Expr::InUnnest { expr: first, .. }
        | Expr::Between { expr: first, .. }
        | Expr::Like { expr: first, .. }
        | Expr::ILike { expr: first, .. }
        | Expr::SimilarTo { expr: first, .. }
        | Expr::RLike { expr: first, .. }
        | Expr::UnaryOp { expr: first, .. }
        | Expr::Cast { expr: first, .. }
        | Expr::AtTimeZone { timestamp: first, .. }
        | Expr::Collate { expr: first, .. }
        | Expr::CompoundFieldAccess { root: first, .. }
        | Expr::JsonAccess { value: first, .. }
        | Expr::Named { expr: first, .. }
        | Expr::OuterJoin(first)
        | Expr::Nested(first) => Some(first),
        _ => None,
    }
}

/// Makes a long chain of AND or OR a balanced tree of the same operands in the same order.
pub(super) fn balance(expr: &mut Expr) {
    let op = match expr {
        Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => op.clone(),
        _ => return,
    };
    if same_operator_length(expr, &op) < BALANCED_FROM {
        return;
    }
    let mut operands = Vec::new();
    let mut rest = mem::replace(expr, Expr::Value(Value::Null.into()));
    loop {
        match rest {
            Expr::BinaryOp { left, op: own, right } if own == op => {
                operands.push(*right);
                rest = *left;
            }
            first => {
                operands.push(first);
                break;
            }
        }
    }
    operands.reverse();
    while operands.len() > 1 {
        let mut pairs = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => Expr::BinaryOp { left: left.into(), op: op.clone(), right: right.into() },
                None => left,
            });
        }
        operands = pairs;
    }
    if let Some(balanced) = operands.pop() {
        *expr = balanced;
    }
}

fn same_operator_length(mut expr: &Expr, op: &BinaryOperator) -> usize {
    let mut length = 0;
    while let Expr::BinaryOp { left, op: own, .. } = expr {
        if own != op {
            break;
        }
        expr = left;
        length += 1;
    }
    length
}
