//! Stories of a backlog.

use odgm_log::Timestamp;

use super::{Allowed, Backlog, Bounds, Found, Rows};

type Small = Backlog<u32, char, ()>;

/// All that is in the view has been read: nothing.
fn backlog() -> Small {
    let bounds = Bounds { rows: 20, lanes: 20, rows_of_one: 4 };
    let mut backlog = Backlog::new(bounds, Allowed { total: 4, of_one: 3 }, 0);
    assert_eq!(backlog.read(u32::MAX), Some(0));
    backlog.page(Rows { rows: Vec::new(), next: None, as_of: 0 });
    backlog
}

fn offer(backlog: &mut Small, rows: &[(u32, char)]) {
    for (key, lane) in rows {
        backlog.offer(*key, lane, (), 1);
    }
}

fn page(backlog: &mut Small, rows: &[(u32, char)], next: Option<u32>, as_of: u32) {
    let rows = rows.iter().map(|(key, lane)| Found { key: *key, lane: *lane, row: () }).collect();
    backlog.page(Rows { rows, next, as_of });
}

fn all(backlog: &mut Small) -> Vec<u32> {
    std::iter::from_fn(|| backlog.next().map(|(key, ())| key)).collect()
}

#[test]
fn rows_go_in_the_order_of_their_keys_as_far_as_their_lanes_may() {
    let mut backlog = backlog();
    offer(&mut backlog, &[(3, 'a'), (1, 'a'), (2, 'a'), (4, 'a'), (5, 'b'), (6, 'b')]);
    assert_eq!(all(&mut backlog), [1, 2, 3, 5], "three of one lane, four in all");
    backlog.ended(2, true);
    assert_eq!(all(&mut backlog), [4]);
    backlog.ended(1, true);
    assert_eq!(all(&mut backlog), [6]);
    for key in 1..=6 {
        backlog.leave(key);
    }
    assert_eq!((backlog.size(), backlog.bytes(), backlog.out(), backlog.lowest()), (0, 0, 0, None));
}

#[test]
fn a_lane_with_many_rows_leaves_them_in_the_view_and_is_not_in_the_way() {
    let mut backlog = backlog();
    for key in 1..=10 {
        offer(&mut backlog, &[(key, 'a')]);
    }
    offer(&mut backlog, &[(11, 'b')]);
    assert_eq!(all(&mut backlog), [1, 2, 3, 11]);
    assert_eq!(backlog.read(100), Some(5), "one waits, and behind it is the view");
    assert_eq!((backlog.lowest_beside(3), backlog.lowest_beside(11)), (Some(1), Some(11)));
    assert_eq!(backlog.lowest_beside(5), None, "it is not here");
    page(&mut backlog, &[(5, 'a'), (6, 'a'), (7, 'a')], Some(8), 11);
    // What came before it was read is at the mark still.
    offer(&mut backlog, &[(12, 'a')]);
    assert_eq!(backlog.read(100), None, "there are enough of it");
    for key in [1, 2, 3, 11] {
        backlog.ended(key, true);
        backlog.leave(key);
    }
    assert_eq!(all(&mut backlog), [4, 5, 6]);
    assert_eq!(backlog.read(100), Some(8));
    page(&mut backlog, &[(8, 'a'), (9, 'a'), (10, 'a'), (12, 'a')], None, 12);
    for key in [4, 5, 6] {
        backlog.ended(key, true);
        backlog.leave(key);
    }
    assert_eq!(all(&mut backlog), [7, 8, 9]);
    assert_eq!((backlog.lowest(), backlog.lowest_beside(8)), (Some(7), Some(7)));
    backlog.uncover(2);
    assert_eq!(backlog.lowest_beside(8), Some(2), "some of it may be there");
}

#[test]
fn what_comes_while_a_page_is_read_is_not_lost() {
    let mut backlog = backlog();
    backlog.uncover(1);
    assert_eq!(backlog.read(100), Some(1));
    // 1 and 2 were there when it was read, 3 was not, and is behind what is read at that time.
    offer(&mut backlog, &[(3, 'a')]);
    page(&mut backlog, &[(1, 'a'), (2, 'a')], None, 3);
    assert_eq!(all(&mut backlog), [1, 2]);
    assert_eq!(backlog.read(100), Some(3));
    // One that is here already, settled before the page comes, is not made again.
    page(&mut backlog, &[(3, 'a')], None, 3);
    backlog.uncover(1);
    assert_eq!(backlog.read(100), Some(1));
    backlog.ended(1, true);
    backlog.leave(1);
    page(&mut backlog, &[(1, 'a'), (2, 'a'), (3, 'a')], None, 9);
    assert_eq!(all(&mut backlog), [3]);
}

#[test]
fn a_lane_that_is_held_has_no_rows_here_and_one_goes_to_see() {
    let mut backlog = backlog();
    offer(&mut backlog, &[(1, 'a'), (2, 'a'), (3, 'a'), (4, 'b')]);
    assert_eq!(all(&mut backlog), [1, 2, 3, 4]);
    assert_eq!(backlog.hold(2, Timestamp(50)), Some(1));
    assert_eq!(backlog.hold(1, Timestamp(40)), None, "it is held already, and until later");
    offer(&mut backlog, &[(5, 'a')]);
    assert!(all(&mut backlog).is_empty());
    assert_eq!(backlog.read(100), None, "a lane that is held wants nothing");
    assert_eq!((backlog.next_expiry(), backlog.lowest()), (Some(Timestamp(50)), Some(1)));

    backlog.expire(Timestamp(50));
    assert_eq!(backlog.read(100), Some(1));
    page(&mut backlog, &[(1, 'a'), (2, 'a'), (3, 'a'), (4, 'b'), (5, 'a')], None, 6);
    assert_eq!(all(&mut backlog), [1], "one goes");
    backlog.ended(3, false);
    assert!(all(&mut backlog).is_empty(), "one that went before does not tell");
    assert_eq!(backlog.read(100), None);
    backlog.ended(1, true);
    backlog.leave(1);
    assert_eq!(backlog.read(100), Some(2), "it was answered: the others may come");
    page(&mut backlog, &[(2, 'a'), (3, 'a'), (4, 'b'), (5, 'a')], None, 6);
    assert_eq!(all(&mut backlog), [2, 5]);
}

/// A lane must be free before one can be read whose lane is not known; that it was put aside does not help it.
#[test]
fn one_that_was_put_aside_waits_for_a_lane_like_all_others() {
    let mut backlog = backlog();
    offer(&mut backlog, &[(1, 'a'), (2, 'b')]);
    assert_eq!(all(&mut backlog), [1, 2]);
    assert!(backlog.park(1, &'!', Timestamp(50)), "its lane has no other row and is forgotten");
    backlog.bounds.lanes = 2;
    backlog.expire(Timestamp(50));
    assert_eq!(backlog.read(100), Some(1));
    page(&mut backlog, &[(1, 'a'), (2, 'b')], None, 3);
    assert_eq!(backlog.lanes(), 1, "nothing is aside any more");
    offer(&mut backlog, &[(3, 'c')]);
    backlog.bounds.lanes = 1;
    assert_eq!(backlog.read(100), None, "and no page is read in vain");
    backlog.ended(2, true);
    backlog.leave(2);
    assert_eq!(backlog.read(100), Some(1));
    page(&mut backlog, &[(1, 'a'), (3, 'c')], None, 4);
    assert_eq!(all(&mut backlog), [1]);
    backlog.ended(1, true);
    backlog.leave(1);
    assert_eq!(backlog.read(100), Some(3));
}

#[test]
fn what_has_no_room_is_read_when_there_is_some() {
    let mut backlog = backlog();
    let lanes = ['a', 'b', 'c', 'd', 'e', 'f'];
    let rows: Vec<_> = (1..=24).map(|key| (key, lanes[key as usize % 6])).collect();
    offer(&mut backlog, &rows);
    assert!(backlog.size() <= 21, "{} are here", backlog.size());
    assert_eq!(backlog.read(100), None, "most of the room is taken");
    let mut left = Vec::new();
    while left.len() < 24 {
        for key in all(&mut backlog) {
            left.push(key);
            backlog.ended(key, true);
            backlog.leave(key);
        }
        if let Some(from) = backlog.read(100) {
            let rest: Vec<_> = rows.iter().copied().filter(|(key, _)| *key >= from).take(5).collect();
            let next = rest.last().map(|(key, _)| key + 1).filter(|key| *key <= 24);
            page(&mut backlog, &rest, next, 25);
        }
    }
    assert_eq!(left, (1..=24).collect::<Vec<_>>());
}
