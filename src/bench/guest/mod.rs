//! Rung 6: inside any Linux, on a function that it has.
//!
//! | file | what happens there |
//! |---|---|
//! | `address` | `0000:00:04.0` |
//! | `function` | a function in sysfs: its identity, BARs, driver, whether it answers |
//! | `register` | a register, mapped, read and written |
//! | `target` | what is to be measured, looked at before anything is touched |
//! | `rows` | the accesses, as rows |

mod address;
mod function;
mod register;
mod rows;
mod target;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use rows::guest;
pub use target::{Place, Target, Wanted};
