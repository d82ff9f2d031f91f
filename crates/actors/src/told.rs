//! A value that several wait for.
//!
//! They are woken in the order in which they came. Those of `tokio::sync::watch` are woken in an order
//! that is drawn by chance, and the course of a simulation would not follow from its seed.

use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Clones are the same.
#[derive(Debug, Default)]
pub struct Told<T>(Arc<Inner<T>>);

#[derive(Debug, Default)]
struct Inner<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Clone for Told<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Told<T> {
    /// The value as it is. It is not to be held for long, nor across a wait.
    ///
    /// # Panics
    /// When whoever changed it did.
    pub fn value(&self) -> MutexGuard<'_, T> {
        self.0.value.lock().expect("no holder panics")
    }

    /// Changes the value, and tells those who wait.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value());
        self.0.changed.notify_waiters();
        result
    }

    /// Waits until the value is as wanted.
    pub async fn is(&self, is_so: impl Fn(&T) -> bool) {
        self.find(|value| is_so(value).then_some(())).await;
    }

    /// Waits until something is found in the value.
    pub async fn find<R>(&self, look: impl Fn(&T) -> Option<R>) -> R {
        loop {
            // It counts from here on, before it is awaited.
            let changed = self.0.changed.notified();
            let found = look(&self.value());
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_woken_in_the_order_in_which_they_came() {
        for _ in 0..20 {
            let (told, woken) = (Told::<u32>::default(), Arc::new(Mutex::new(Vec::new())));
            for number in 0..8 {
                let (told, woken) = (told.clone(), woken.clone());
                tokio::spawn(async move {
                    told.is(|value| *value > 1).await;
                    woken.lock().unwrap().push(number);
                });
            }
            for value in 1..3 {
                tokio::task::yield_now().await;
                told.change(|told| *told = value);
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            assert_eq!(*woken.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }
}
