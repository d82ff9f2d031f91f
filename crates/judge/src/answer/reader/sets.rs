//! Tuples, intervals, sets and matrices.

use super::{MAX_ITEMS, Mode, Reader};
use crate::answer::typeset::{MATRIX, MATRIX_END, NEW_ROW, SET, SET_END};
use crate::answer::value::{Value, set_of};

impl Reader<'_> {
    /// A tuple, interval or set, or a union of these.
    pub(super) fn sets(&mut self) -> Option<Value> {
        let mut parts = vec![self.one_set()?];
        while self.eat('∪') {
            parts.push(self.one_set()?);
        }
        Some(match parts.len() {
            1 => parts.swap_remove(0),
            _ => Value::Set(parts),
        })
    }

    fn one_set(&mut self) -> Option<Value> {
        if self.eat('∅') {
            return Some(Value::Set(Vec::new()));
        }
        let open = self.sign()?;
        let ends: &[char] = match open {
            '(' | '[' => &[')', ']'],
            '⟨' => &['⟩'],
            '<' => &['>'],
            '{' => &['}'],
            SET => &[SET_END],
            _ => return None,
        };
        self.at += 1;
        if matches!(open, '{' | SET) && ends.iter().any(|end| self.eat(*end)) {
            return Some(Value::Set(Vec::new()));
        }
        let items = self.items()?;
        let close = self.sign().filter(|c| ends.contains(c))?;
        self.at += 1;
        // In brackets one item is a group; in the braces of a set it is a set.
        if items.len() < 2 && open != SET {
            return None;
        }
        Some(match open {
            '{' | SET => set_of(items),
            '⟨' | '<' => Value::Sequence {
                open: '(',
                close: ')',
                items,
            },
            _ => Value::Sequence { open, close, items },
        })
    }

    fn items(&mut self) -> Option<Vec<Value>> {
        let mut inner = self.inner();
        let mut items = vec![inner.value()?];
        while items.len() < MAX_ITEMS && (inner.eat(',') || inner.eat(';')) {
            items.push(inner.value()?);
        }
        self.at = inner.at;
        Some(items)
    }

    /// A reader of what stands within brackets from here.
    fn inner(&self) -> Self {
        Self {
            mode: Mode {
                alone: false,
                ..self.mode
            },
            nesting: self.nesting + 1,
            ..*self
        }
    }

    pub(super) fn matrix(&mut self) -> Option<Value> {
        if !self.eat(MATRIX) {
            return None;
        }
        let mut rows = vec![Vec::new()];
        loop {
            let mut cell = self.inner();
            let value = cell.value()?;
            self.at = cell.at;
            rows.last_mut().expect("there is a row").push(value);
            if self.eat('&') {
                continue;
            }
            let new_row = self.eat(NEW_ROW);
            if self.eat(MATRIX_END) {
                return Some(Value::Matrix(rows));
            }
            if !new_row || rows.len() > MAX_ITEMS {
                return None;
            }
            rows.push(Vec::new());
        }
    }
}
