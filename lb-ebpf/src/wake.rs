//! Waking: who asks for a service that has no backend, and that such a question brings one back, is told of to user space.
//!
//! One question is as good as a thousand: of each service one is told in every [`PAUSE`], whoever asks and by whichever hook, so that a
//! flood of SYNs costs what a drop costs, and the agent no more than ten words a second.

use core::ptr::read_volatile;

use crate::{atomic, env::Env};

/// So long, in nanoseconds, nothing more is told of a service.
pub const PAUSE: u64 = 100_000_000;

/// Somebody asks for a service without a backend.
#[inline(always)]
pub fn knock<E: Env>(env: &E, service: u32) {
    let Some(told) = env.knocked(service) else { return };
    // 0 is never.
    let now = env.nanoseconds().max(1);
    // SAFETY: in map memory that is valid for the program's time, and changed by this exchange only; read once. Of those who come at
    // the same time one tells.
    unsafe {
        let before = read_volatile(told.ptr());
        let is_due = before == 0 || now.wrapping_sub(before) >= PAUSE;
        if is_due && atomic::compare_exchange64(told.ptr(), before, now) {
            env.wake(service);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;
    use crate::memory::Memory;

    #[test]
    fn a_flood_is_told_of_ten_times_a_second_and_each_service_by_itself() {
        let env = Memory::new(1);
        let told = |milliseconds: u64, service| {
            env.time.store(milliseconds * 1_000_000, Ordering::SeqCst);
            knock(&env, service);
            core::mem::take(&mut *env.woken.lock().unwrap())
        };
        assert_eq!((told(0, 3), told(0, 3)), (std::vec![3], std::vec![]));
        assert_eq!((told(1, 4), told(1, 4)), (std::vec![4], std::vec![]), "another one");
        let flood = (2..1000).flat_map(|at| told(at, 3));
        assert_eq!(flood.count(), 9);
        assert_eq!(told(60_000, 3), [3], "long after");
        assert!(told(0, 99).is_empty(), "one that there is no room for");
    }

    #[test]
    fn of_many_at_once_one_tells() {
        let env = Memory::new(1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| knock(&env, 1)));
            }
        });
        assert_eq!(*env.woken.lock().unwrap(), [1]);
    }
}
