// rust-vmm's own front-end (crate vhost, which libkrun uses) against a vhost-user GPU: one picture,
// made, shown and flushed. usage: front-end SOCKET; ends when its standard input does.
use std::ptr::{copy_nonoverlapping, read_unaligned, read_volatile, write_bytes, write_unaligned};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures as Protocol};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

const RAM: usize = 32 << 20;
const START: u64 = 0x1_0000_0000; // of guest RAM, where guests have it that know 64 bits
const USED: usize = 0x2000;
const AVAILABLE: usize = 0x1000;
const REQUEST: usize = 0x4000;
const ANSWER: usize = 0x6000;
const PICTURE: usize = 1 << 20;
const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

struct Guest {
    ram: *mut u8,
    kick: EventFd,
    call: EventFd,
    index: u16,
}

impl Guest {
    unsafe fn put<T>(&self, place: usize, value: T) {
        write_unaligned(self.ram.add(place) as *mut T, value)
    }

    /// Sends one request over descriptors 0 and 1 and returns the type of its answer.
    unsafe fn ask(&mut self, name: &str, kind: u32, words: &[u32]) -> u32 {
        let mut body = kind.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 20]);
        for word in words {
            body.extend_from_slice(&word.to_le_bytes());
        }
        copy_nonoverlapping(body.as_ptr(), self.ram.add(REQUEST), body.len());
        write_bytes(self.ram.add(ANSWER), 0, 512);
        self.put(0, START + REQUEST as u64);
        self.put(8, body.len() as u32);
        self.put(12, 1u16); // VIRTQ_DESC_F_NEXT
        self.put(14, 1u16);
        self.put(16, START + ANSWER as u64);
        self.put(24, 512u32);
        self.put(28, 2u16); // VIRTQ_DESC_F_WRITE
        self.put(30, 0u16);
        self.put(AVAILABLE + 4 + 2 * (self.index as usize % 64), 0u16);
        self.index += 1;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.put(AVAILABLE + 2, self.index);
        self.kick.write(1).unwrap();
        while read_volatile(self.ram.add(USED + 2) as *const u16) != self.index {
            // Not blocking: the back-end may have made it so, and shares the open file.
            let _ = self.call.read();
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let answer = read_unaligned(self.ram.add(ANSWER) as *const u32);
        println!("{name}: {answer:#x}");
        answer
    }
}

fn main() {
    let path = std::env::args().nth(1).expect("usage: front-end SOCKET");
    let mut front = Frontend::connect(&path, 2).unwrap();
    front.set_owner().unwrap();
    let offered = front.get_features().unwrap();
    let protocol = front.get_protocol_features().unwrap();
    front
        .set_protocol_features(protocol & (Protocol::CONFIG | Protocol::MQ | Protocol::REPLY_ACK))
        .unwrap();
    println!("features {offered:#x}, queues {}", front.get_queue_num().unwrap());
    // VERSION_1, PROTOCOL_FEATURES, EDID and RESOURCE_BLOB.
    front.set_features(offered & (1 << 32 | 1 << 30 | 1 << 1 | 1 << 3)).unwrap();
    let (_, config) =
        front.get_config(0, 16, VhostUserConfigFlags::empty(), &[0u8; 16]).unwrap();
    println!("outputs {}", config[8]);
    unsafe {
        let file = libc::memfd_create(c"ram".as_ptr(), libc::MFD_ALLOW_SEALING);
        libc::ftruncate(file, RAM as i64);
        libc::fcntl(file, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let ram = libc::mmap(std::ptr::null_mut(), RAM, access, libc::MAP_SHARED, file, 0);
        let address = ram as u64;
        front
            .set_mem_table(&[VhostUserMemoryRegionInfo {
                guest_phys_addr: START,
                memory_size: RAM as u64,
                userspace_addr: address,
                mmap_offset: 0,
                mmap_handle: file,
            }])
            .unwrap();
        let mut guest = Guest {
            ram: ram as *mut u8,
            kick: EventFd::new(0).unwrap(),
            call: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            index: 0,
        };
        front.set_vring_num(0, 64).unwrap();
        front
            .set_vring_addr(
                0,
                &VringConfigData {
                    queue_max_size: 64,
                    queue_size: 64,
                    flags: 0,
                    desc_table_addr: address,
                    used_ring_addr: address + USED as u64,
                    avail_ring_addr: address + AVAILABLE as u64,
                    log_addr: None,
                },
            )
            .unwrap();
        front.set_vring_base(0, 0).unwrap();
        front.set_vring_call(0, &guest.call).unwrap();
        front.set_vring_kick(0, &guest.kick).unwrap();
        front.set_vring_enable(0, true).unwrap();
        // As `scripts/pixels` draws "gradient".
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let pixel = x * 255 / (WIDTH - 1) << 16 | y * 255 / (HEIGHT - 1) << 8 | 80;
                guest.put(PICTURE + ((y * WIDTH + x) * 4) as usize, pixel);
            }
        }
        let at = START + PICTURE as u64;
        let bytes = WIDTH * HEIGHT * 4;
        let mut all = guest.ask("GET_DISPLAY_INFO", 0x100, &[]) == 0x1101;
        all &= guest.ask("RESOURCE_CREATE_2D", 0x101, &[1, 2, WIDTH, HEIGHT]) == 0x1100;
        let entry = [1, 1, at as u32, (at >> 32) as u32, bytes, 0];
        all &= guest.ask("RESOURCE_ATTACH_BACKING", 0x106, &entry) == 0x1100;
        let whole = [0, 0, WIDTH, HEIGHT, 0, 0, 1, 0];
        all &= guest.ask("TRANSFER_TO_HOST_2D", 0x105, &whole) == 0x1100;
        all &= guest.ask("SET_SCANOUT", 0x103, &[0, 0, WIDTH, HEIGHT, 0, 1]) == 0x1100;
        all &= guest.ask("RESOURCE_FLUSH", 0x104, &[0, 0, WIDTH, HEIGHT, 1, 0]) == 0x1100;
        all &= guest.ask("RESOURCE_UNREF of what is not there", 0x102, &[9, 0]) == 0x1203;
        println!("{}", if all { "all as they should be" } else { "something is wrong" });
    }
    let _ = std::io::stdin().read_line(&mut String::new());
}
