//! The line between device and gateway: two sockets and whatever we do to what goes between them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::board::PATIENCE;

/// A line that can be cut, also in the middle of a frame. The device's end stays plugged in, as a serial port does; the
/// gateway's is hung up, so that it has to come back.
#[derive(Clone)]
pub(super) struct Wire {
    device_end: Arc<TcpListener>,
    gateway_end: Arc<TcpListener>,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    device: Option<TcpStream>,
    gateway: Option<TcpStream>,
    /// Bytes that the device may still say before the line is cut; none if it is whole.
    cut_after: Option<usize>,
    /// Frames that the device said into a line that was cut.
    lost_frames: usize,
}

impl Wire {
    pub(super) fn new() -> Self {
        let listen = || Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let wire = Self { device_end: listen(), gateway_end: listen(), state: Arc::default() };
        let gateways = wire.clone();
        std::thread::spawn(move || gateways.serve_gateways());
        wire
    }

    /// Where the emulator's second serial port goes.
    pub(super) fn device_address(&self) -> String {
        format!("tcp:{}", self.device_end.local_addr().unwrap())
    }

    /// What the gateway is given as `--serial`.
    pub(super) fn gateway_address(&self) -> String {
        format!("tcp:{}", self.gateway_end.local_addr().unwrap())
    }

    /// Waits for the emulator to plug its port in.
    pub(super) fn accept_device(&self) {
        let (stream, _) = self.device_end.accept().unwrap();
        self.state.0.lock().unwrap().device = Some(stream.try_clone().unwrap());
        let wire = self.clone();
        std::thread::spawn(move || wire.carry_up(stream));
    }

    /// Cuts the line once the device has said so many more bytes. At zero it is cut now.
    pub(super) fn cut_after(&self, bytes: usize) {
        let mut state = self.state.0.lock().unwrap();
        state.cut_after = Some(bytes);
        state.lost_frames = 0;
        if bytes == 0 {
            state.hang_up();
        }
    }

    /// Waits until the device has said so many frames in vain.
    pub(super) fn wait_for_lost_frames(&self, count: usize) {
        let (state, changed) = &*self.state;
        let waited = changed.wait_timeout_while(state.lock().unwrap(), PATIENCE, |state| state.lost_frames < count);
        assert!(waited.unwrap().0.lost_frames >= count, "the device has stopped repeating itself");
    }

    /// The line is whole again; the gateway may come back.
    pub(super) fn mend(&self) {
        self.state.0.lock().unwrap().cut_after = None;
    }

    fn serve_gateways(&self) {
        while let Ok((stream, _)) = self.gateway_end.accept() {
            let mut state = self.state.0.lock().unwrap();
            if state.cut_after == Some(0) {
                continue; // dropped: still cut
            }
            state.gateway = Some(stream.try_clone().unwrap());
            drop(state);
            let wire = self.clone();
            std::thread::spawn(move || wire.carry_down(stream));
        }
    }

    /// From device to gateway.
    fn carry_up(&self, mut device: TcpStream) {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = device.read(&mut buffer) {
            let mut state = self.state.0.lock().unwrap();
            let mut bytes = &buffer[..length];
            if let Some(left) = state.cut_after {
                let lost;
                (bytes, lost) = bytes.split_at(left.min(length));
                state.cut_after = Some(left - bytes.len());
                state.lost_frames += lost.iter().filter(|byte| **byte == 0).count();
                self.state.1.notify_all();
            }
            if let Some(gateway) = &mut state.gateway {
                // A gateway that is just being started anew misses it, as it would on a real line.
                let _ = gateway.write_all(bytes);
            }
            if state.cut_after == Some(0) {
                state.hang_up();
            }
        }
    }

    /// From gateway to device.
    fn carry_down(&self, mut gateway: TcpStream) {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = gateway.read(&mut buffer) {
            let mut state = self.state.0.lock().unwrap();
            if state.cut_after != Some(0)
                && let Some(device) = &mut state.device
            {
                let _ = device.write_all(&buffer[..length]);
            }
        }
    }
}

impl State {
    fn hang_up(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            let _ = gateway.shutdown(Shutdown::Both);
        }
    }
}
