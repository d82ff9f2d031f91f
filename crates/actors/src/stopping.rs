//! Ending in order: how whoever works learns that it is to end, and that something is to be saved
//! before others do.

use crate::told::Told;

/// The wish that work ends in order. Clones are the same wish; it is never taken back.
#[derive(Debug, Clone, Default)]
pub struct Stop(Told<bool>);

impl Stop {
    /// Has work end in order.
    pub fn ask(&self) {
        self.0.change(|is_asked| *is_asked = true);
    }

    /// Whether work is to end.
    pub fn is_asked(&self) -> bool {
        *self.0.value()
    }

    /// Waits until work is to end.
    pub async fn asked(&self) {
        self.0.is(|is_asked| *is_asked).await;
    }

    /// Does something that may be left undone; `None` when work is to end before it is done.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.asked() => None,
            done = work => Some(done),
        }
    }
}

/// Checkpoints that are wanted beside those that are due: of whoever is about to leave with what it
/// holds. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saving(Told<Wishes>);

#[derive(Debug, Default)]
struct Wishes {
    /// Numbers of the newest wish, and of the newest that is fulfilled.
    asked: u64,
    done: u64,
    /// Loops that train at the moment.
    loops: u32,
}

impl Saving {
    /// Waits until there is a checkpoint of all steps that were made before; no longer when nothing
    /// trains (any more).
    pub(crate) async fn save(&self) {
        let number = self.0.change(|wishes| {
            wishes.asked += 1;
            wishes.asked
        });
        let is_over = |wishes: &Wishes| wishes.done >= number || wishes.loops == 0;
        self.0.is(is_over).await;
    }

    /// Something trains, and fulfils wishes, until this is dropped.
    pub(crate) fn enter(&self) -> Saver {
        self.0.change(|wishes| wishes.loops += 1);
        Saver(self.clone())
    }
}

/// The stage that trains.
#[derive(Debug)]
pub(crate) struct Saver(Saving);

impl Saver {
    /// The newest wish that is not fulfilled.
    pub(crate) fn due(&self) -> Option<u64> {
        let wishes = self.0.0.value();
        (wishes.asked > wishes.done).then_some(wishes.asked)
    }

    /// Waits for a wish.
    pub(crate) async fn wanted(&self) -> u64 {
        let newest = |wishes: &Wishes| (wishes.asked > wishes.done).then_some(wishes.asked);
        self.0.0.find(newest).await
    }

    /// This wish and those before it are fulfilled.
    pub(crate) fn fulfilled(&self, number: u64) {
        self.0
            .0
            .change(|wishes| wishes.done = wishes.done.max(number));
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.0.0.change(|wishes| wishes.loops -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::future::pending;

    #[tokio::test]
    async fn work_that_may_be_left_undone_ends_with_the_wish() {
        let stop = Stop::default();
        assert_eq!(stop.unless(async { 7 }).await, Some(7));
        let other = stop.clone();
        let waits = stop.unless(pending::<()>());
        tokio::pin!(waits);
        assert_eq!(waits.as_mut().now_or_never(), None);
        other.ask();
        assert_eq!(waits.await, None);
        assert!(stop.is_asked());
        assert_eq!(stop.unless(async { 7 }).await, None, "nothing new is begun");
    }

    #[tokio::test]
    async fn whoever_leaves_waits_for_a_checkpoint_that_is_made_after_it_asked() {
        let saving = Saving::default();
        saving.save().await; // nothing trains
        let saver = saving.enter();
        let first = saver.due().expect("it is still to be fulfilled");
        saver.fulfilled(first);
        assert_eq!(saver.due(), None);

        let waits = saving.save();
        tokio::pin!(waits);
        assert_eq!(waits.as_mut().now_or_never(), None);
        let number = saver.wanted().await;
        let later = saving.save();
        tokio::pin!(later);
        assert_eq!(later.as_mut().now_or_never(), None);
        saver.fulfilled(number);
        waits.await;
        assert_eq!(later.as_mut().now_or_never(), None, "it asked later");
        drop(saver);
        later.await;
    }
}
