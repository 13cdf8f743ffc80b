//! A hundred thousand frames that something happened to: no word arrives that was not said, none twice, and once the line
//! is good again nothing is missing.
#![expect(clippy::unwrap_used, reason = "a question that cannot be asked fails the test")]

mod wire;

use std::collections::{BTreeMap, BTreeSet};

use margay_link::{Device, DeviceCounts, Gateway, MAX_FRAME, Origin, QueryId, Timing};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wire::{Faults, Wire};

const FAULTY_FRAMES: u32 = 100_000;

/// Something a microphone may pick up, different for every question, with the bytes that framing must not trip over.
fn question(random: &mut ChaCha8Rng, id: QueryId) -> String {
    let length = random.random_range(0..120);
    let characters = (0..length).map(|_| ['\0', 'a', '\u{1}', 'ß', '猫', ' ', '\u{ff}'][random.random_range(0..7)]);
    format!("{id} {}", characters.collect::<String>())
}

fn answer_to(question: &str) -> String {
    format!("heard: {question}")
}

/// Device, gateway, and a bad line in between.
struct World {
    random: ChaCha8Rng,
    now: u64,
    device: Device<8>,
    gateway: Gateway<64>,
    up: Wire,
    down: Wire,
    /// What was asked, in all sessions.
    asked: BTreeMap<QueryId, String>,
    /// What this session waits for.
    waiting: BTreeSet<u32>,
    /// What the gateway was handed since its start.
    handed: BTreeSet<QueryId>,
    /// Answers being written, with the time they will be ready.
    writing: Vec<(u64, QueryId, String)>,
    restarts: u32,
    totals: DeviceCounts,
}

impl World {
    fn new(seed: u64) -> Self {
        let timing = Self::timing();
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            now: 0,
            device: Device::new(0, timing),
            gateway: Gateway::new(timing),
            up: Wire::new(seed ^ 1, 0.5),
            down: Wire::new(seed ^ 2, 0.5),
            asked: BTreeMap::new(),
            waiting: BTreeSet::new(),
            handed: BTreeSet::new(),
            writing: Vec::new(),
            restarts: 0,
            totals: DeviceCounts::default(),
        }
    }

    fn timing() -> Timing {
        Timing { first_ms: 40, longest_ms: 640, accepted_ms: 2_000, repeats: 12 }
    }

    fn step(&mut self, calm: bool) {
        self.now += self.random.random_range(1..40);
        if !calm && self.random.random_bool(0.05) {
            let id = QueryId { session: self.device.session(), number: self.device.counts().asked };
            let text = question(&mut self.random, id);
            let asked = self.device.ask(&text, None, self.now).unwrap();
            assert_eq!(asked.number, id.number);
            self.asked.insert(id, text);
            self.waiting.insert(asked.number);
            if let Some(dropped) = asked.dropped {
                assert!(self.waiting.remove(&dropped), "what is dropped was waiting");
            }
        }
        if !calm && self.random.random_bool(0.001) {
            self.restart_device();
        }
        if !calm && self.random.random_bool(0.001) {
            self.restarts += 1;
            self.gateway = Gateway::new(Self::timing());
            self.handed.clear();
            self.writing.clear();
        }
        self.write_answers();
        self.device_speaks();
        self.gateway_speaks();
    }

    fn restart_device(&mut self) {
        self.restarts += 1;
        let session = self.device.session() + 1;
        self.add_up();
        self.device = Device::new(session, Self::timing());
        self.waiting.clear();
    }

    fn add_up(&mut self) {
        let of = self.device.counts();
        self.totals.asked += of.asked;
        self.totals.answered += of.answered;
        self.totals.dropped += of.dropped;
        self.totals.repeated += of.repeated;
        self.totals.duplicates += of.duplicates;
        self.totals.damaged += of.damaged;
    }

    fn write_answers(&mut self) {
        let (ready, rest) = self.writing.drain(..).partition(|(due, ..)| *due <= self.now);
        self.writing = rest;
        for (_, id, text) in Vec::from_iter::<Vec<_>>(ready) {
            assert!(self.gateway.answer(id, Origin::Cloud, &answer_to(&text), self.now));
        }
    }

    fn device_speaks(&mut self) {
        let mut buffer = [0; MAX_FRAME];
        while let Some(frame) = self.device.transmit(self.now, &mut buffer) {
            for byte in self.up.carry(frame) {
                let Some(query) = self.gateway.receive(byte) else { continue };
                assert_eq!(self.asked.get(&query.id).map(String::as_str), Some(query.text), "never asked like that");
                assert!(self.handed.insert(query.id), "{} was handed out twice", query.id);
                let ready = self.now + self.random.random_range(0..500);
                self.writing.push((ready, query.id, query.text.to_owned()));
            }
        }
    }

    fn gateway_speaks(&mut self) {
        let mut buffer = [0; MAX_FRAME];
        while let Some(frame) = self.gateway.transmit(self.now, &mut buffer) {
            for byte in self.down.carry(frame) {
                let session = self.device.session();
                let Some(answer) = self.device.receive(byte, self.now) else { continue };
                let question = &self.asked[&QueryId { session, number: answer.number }];
                assert_eq!(answer.text, answer_to(question), "another question's answer");
                assert!(answer.complete && answer.origin == Origin::Cloud);
                assert!(self.waiting.remove(&answer.number), "{} was answered twice", answer.number);
            }
        }
    }
}

#[test]
fn nothing_wrong_arrives_nothing_twice_and_in_the_end_everything() {
    let (mut faults, mut restarts, mut totals) = (Faults::default(), 0, DeviceCounts::default());
    let mut seed = 0;
    while faults.total() < FAULTY_FRAMES {
        let mut world = World::new(seed);
        seed += 1;
        for _ in 0..40_000 {
            world.step(false);
        }
        // The line is good now. Within a minute of the devices' time everything that waits is answered.
        (world.up.faults, world.down.faults) = (0.0, 0.0);
        let patience = world.now + 60_000;
        while world.device.waiting() > 0 && world.now < patience {
            world.step(true);
        }
        assert_eq!((world.device.waiting(), &world.waiting), (0, &BTreeSet::new()), "seed {}", seed - 1);
        world.add_up();
        for direction in [world.up.counts, world.down.counts] {
            faults.lost += direction.lost;
            faults.corrupted += direction.corrupted;
            faults.truncated += direction.truncated;
            faults.duplicated += direction.duplicated;
            faults.reordered += direction.reordered;
        }
        restarts += world.restarts;
        totals.answered += world.totals.answered;
        totals.damaged += world.totals.damaged;
        totals.duplicates += world.totals.duplicates;
    }
    // Every kind of trouble was there often enough to mean something.
    let each = [faults.lost, faults.corrupted, faults.truncated, faults.duplicated, faults.reordered];
    assert!(each.iter().all(|&count| count > FAULTY_FRAMES / 6), "{faults:?}");
    assert!(restarts > 100 && totals.answered > 5_000 && totals.damaged > 10_000, "{restarts} {totals:?}");
}
