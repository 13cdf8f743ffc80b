//! What survives a restart: how much was spent, and what waits to be sent.

mod budget;
mod database;
mod metered;
mod outbox;
mod period;

pub use self::budget::{Budget, BudgetBuilder, Limit, Price, Spent};
pub use self::metered::Metered;
pub use self::outbox::{Cipher, Drained, Fill, MAX_PROMPT_BYTES, Outbox, OutboxBuilder, Outcome};
pub use self::period::Period;
