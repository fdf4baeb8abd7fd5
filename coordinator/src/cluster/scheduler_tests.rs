//! Who goes where.

use super::super::node::{Link, Offer};
use super::*;

const NOW: Millis = Millis(0);

fn resources(cpu_milli: u64) -> Resources {
    Resources { cpu_milli, memory_bytes: 1 << 30, disk_bytes: 1 << 30 }
}

fn class(cpu_milli: u64) -> Class {
    Class { need: resources(cpu_milli), storages: StorageSet::default() }
}

fn node(cpu_milli: u64, used_milli: u64) -> Node {
    let capacity = Resources { cpu_milli, memory_bytes: 64 << 30, disk_bytes: 64 << 30 };
    Node {
        link: Link::Connected,
        offer: Offer { capacity, storages: StorageSet::default() },
        used: Resources { cpu_milli: used_milli, ..Resources::default() },
        ..Node::new(format!("n{cpu_milli}"), NOW)
    }
}

fn queue(tasks: &[(Seq, Class)]) -> Queue {
    let mut queue = Queue::default();
    for (seq, class) in tasks {
        queue.push(NOW, *seq, *class, NOW, None);
    }
    queue
}

#[test]
fn the_tightest_node_wins() {
    let nodes = [node(16_000, 0), node(4_000, 2_000), node(4_000, 0)];
    assert_eq!(place(NOW, &queue(&[(1, class(2_000))]), &nodes), [(1, NodeKey(1))]);
}

#[test]
fn small_tasks_pass_one_that_fits_nowhere_now() {
    let nodes = [node(4_000, 3_000)];
    let waiting = queue(&[(1, class(4_000)), (2, class(1_000)), (3, class(1_000))]);
    assert_eq!(place(NOW, &waiting, &nodes), [(2, NodeKey(0))]);
}

#[test]
fn five_minutes_of_waiting_reserve_a_node() {
    let nodes = [node(4_000, 3_000), node(2_000, 1_000)];
    let waiting = queue(&[(1, class(4_000)), (2, class(1_000)), (3, class(1_000))]);
    let late = Millis(RESERVE_AFTER_MILLIS);
    // Node 0 is the only one that could hold task 1: the younger ones must leave it alone.
    assert_eq!(place(late, &waiting, &nodes), [(2, NodeKey(1))]);
}

#[test]
fn what_no_node_could_hold_reserves_nothing() {
    let nodes = [node(4_000, 3_000)];
    let waiting = queue(&[(1, class(8_000)), (2, class(1_000))]);
    assert_eq!(place(Millis(RESERVE_AFTER_MILLIS), &waiting, &nodes), [(2, NodeKey(0))]);
}

#[test]
fn a_node_that_lost_it_is_the_last_choice() {
    let mut waiting = Queue::default();
    waiting.push(NOW, 1, class(1_000), NOW, Some(NodeKey(0)));
    assert_eq!(place(NOW, &waiting, &[node(2_000, 0), node(16_000, 0)]), [(1, NodeKey(1))]);
    assert_eq!(place(NOW, &waiting, &[node(2_000, 0), node(16_000, 16_000)]), [], "waits for the other");
    assert_eq!(place(NOW, &waiting, &[node(2_000, 0)]), [(1, NodeKey(0))], "there is no other");
}

#[test]
fn storage_must_be_there() {
    let mut shared = StorageSet::default();
    shared.insert(5);
    let mut with_storage = node(4_000, 0);
    with_storage.offer.storages = shared;
    let waiting = queue(&[(1, Class { storages: shared, ..class(1_000) })]);
    assert_eq!(place(NOW, &waiting, &[node(4_000, 0)]), []);
    assert_eq!(place(NOW, &waiting, &[node(4_000, 0), with_storage]), [(1, NodeKey(1))]);
}

#[test]
fn the_oldest_goes_first_across_classes_and_nothing_is_given_twice() {
    let nodes = [node(3_000, 0)];
    let waiting = queue(&[(4, class(1_000)), (2, class(2_000)), (1, class(1_000)), (3, class(2_000))]);
    assert_eq!(place(NOW, &waiting, &nodes), [(1, NodeKey(0)), (2, NodeKey(0))]);
}

#[test]
fn a_disconnected_node_gets_nothing() {
    let gone = Node { link: Link::Disconnected(NOW), ..node(4_000, 0) };
    assert_eq!(place(NOW, &queue(&[(1, class(1_000))]), &[gone]), []);
}

#[test]
fn back_off_is_waited_out() {
    let mut waiting = Queue::default();
    waiting.push(NOW, 1, class(1_000), Millis(10), None);
    assert!(!waiting.wake(Millis(9)));
    assert_eq!(place(Millis(9), &waiting, &[node(4_000, 0)]), []);
    assert!(waiting.wake(Millis(10)));
    assert_eq!(place(Millis(10), &waiting, &[node(4_000, 0)]), [(1, NodeKey(0))]);
    waiting.remove(1, class(1_000), Millis(10));
    assert_eq!(waiting.all(), BTreeSet::new());
}
