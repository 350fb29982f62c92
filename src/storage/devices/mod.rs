//! The tables of devices: keys, device lists, to-device messages and key backups.

pub mod cross_signing;
pub mod device_keys;
pub mod device_list_changes;
pub mod device_list_updates;
pub mod device_table;
pub mod key_backups;
pub mod one_time_keys;
pub mod received_to_device_messages;
pub mod remote_device_lists;
pub mod to_device;
