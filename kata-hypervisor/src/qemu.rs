//! QEMU (being written).
