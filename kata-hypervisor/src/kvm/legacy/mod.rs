//! The few devices of an old PC that a kernel looks for.

mod i8042;
mod pm;
mod rtc;
mod serial;

pub(super) use i8042::I8042;
pub(super) use pm::{PanicNotifier, PowerManagement, RESET_OFFSET, RESET_VALUE, SLEEP_TYPE_OFF};
pub(super) use rtc::Rtc;
pub(super) use serial::Uart;
