//! The life of calls, record by record: asked for by a trigger or a client, dispatched, ended, told elsewhere, given up.
//!
//! Scripts stand in for the processor: they propose what it would.

use crate::golden::play;

/// The targets are in this partition: an outcome ends the call and is an event at once.
#[test]
fn a_trigger_from_the_write_to_the_end_of_its_calls() {
    let view = play(
        "
        semantics 2
        set plane dest=IAH !dest:create=new !dest=moved,seen !dest:delete=gone !moved:complete=after !moved:error=alarm
        outcome row:1010/2/0 new ok on=plane id=7/1/2/0
        put plane dest=MIA gate=C12
        ^1 @7/4 outcome row:1030/4/0 moved ok on=plane answer
        ^1 @7/4 outcome row:1030/4/1 seen no
        ^2 @7/5 outcome row:1040/5/0 after ok on=plane
        put plane -dest
        ^1 @7/8 outcome row:1070/8/0 gone ok on=elsewhere
        delete plane
        ",
    );
    insta::assert_snapshot!(view);
}

/// What is in force after a write decides of it; of a deletion, what was before.
#[test]
fn which_triggers_a_record_meets() {
    let view = play(
        "
        semantics 2
        set a k=1 !k:create=first
        set a k=2 !k=second
        set a l=3
        set a k=4 !clear
        merge a k=5 !k=third
        merge a k=6
        delete a
        set a k=7
        merge a l=8 !k:delete=last
        delete a
        config events=off
        set a k=9 !k:create=never
        config
        put a k=0 if=99
        put a -nothing
        ",
    );
    insta::assert_snapshot!(view);
}

/// Settled first, told to the partition of the target then, forgotten last.
#[test]
fn an_outcome_for_another_partition() {
    let view = play(
        "
        semantics 2
        ^3 set plane dest=IAH !dest:create=airports/4/iah/count,airports/5/all/count,gone/0//count
        settle 1010/2/0=ended:ok 1010/2/1=ended:no 1010/2/2=ended:ok
        settle 1010/2/0=ended:ok
        delivered 3/0
        delivered 3/0 3/1
        delivered lost=3/2:no-such-class
        redrive 3/2
        delivered 8/0
        ",
    );
    insta::assert_snapshot!(view);
}

/// The other end of it: each takes effect once, and is remembered as long as it can come again.
#[test]
fn outcomes_from_other_partitions() {
    let view = play(
        "
        semantics 2
        set iah n=0 !count:complete=flights/0//noted
        ^4 @9/12 outcome from:9/20/0/20 count ok on=iah id=9/1/12/0 41
        ^4 @9/12 outcome from:9/20/0/20 count ok on=iah id=9/1/12/0 41
        ^1 @9/12 outcome from:9/20/1/20 count no on=iah
        ^1 @8/12 outcome from:8/20/0/3 count ok on=mia
        @9/300 outcome from:9/301/0/90 count ok
        @9/12 outcome from:9/89/7/20 count ok
        @9/12 outcome from:9/20/1/20 count no on=iah
        @9/300 outcome from:9/301/0/90 count ok
        ",
    );
    insta::assert_snapshot!(view);
}

#[test]
fn attempts_that_fail_until_there_are_no_more() {
    let view = play(
        "
        semantics 2
        set a k=1 !k:create=slow !slow:error=alarm
        settle 1010/2/0=retry:1500:refused
        settle 1010/2/0=retry:1500:late
        settle 1500/2/0=retry:1600:wrong-attempt
        settle 1500/2/0~0.1=retry:9:the-past
        settle 1500.1/2/0~0.2=dead:given-up
        +600 config
        redrive 2/0 2/0 9/9
        settle 1680/2/0=ended:ok
        settle 1680/2/0~1.0=dead:again:broken
        ^1 @7/2 outcome own:11/0 slow broken on=a id=7/1/2/0
        ^1 @7/2 outcome own:11/0 slow broken on=a id=7/1/2/0
        ^2 @7/12 outcome row:1710/12/0 alarm ok
        discard 2/0 because=enough
        discard 2/0 because=enough
        redrive 2/0
        ",
    );
    insta::assert_snapshot!(view);
}

#[test]
fn a_loop_ends_where_it_is_too_deep() {
    let view = play(
        "
        semantics 2
        config depth=2
        set a k=1 !k=f !f:complete=g
        put a k=2
        ^1 @7/4 put a k=3
        ^1 @7/4 outcome row:1030/4/0 f ok on=a
        ^2 @7/5 put a k=4
        ^2 @7/5 outcome row:1040/5/0 f ok on=a
        redrive 7/0
        ^3 @7/7 put a k=5
        ^3 invoke deep f
        ^2 invoke same f
        ",
    );
    insta::assert_snapshot!(view);
}

/// Writes wait for room and may be asked for again; what has happened has happened, and is kept as dead letters.
#[test]
fn an_outbox_without_room() {
    let view = play(
        "
        semantics 2
        config rows=2
        set a k=1 !k=f,g !f:complete=x,y
        #r1 put a k=2
        #r2 put a k=3 l=1
        #r2 put a k=3 l=1
        #r3 invoke i f
        put a l=2
        put a k=5 if=9
        ^1 outcome row:1030/4/0 f ok on=a answer
        ^1 outcome client f ok on=a
        redrive 10/1 11/0
        settle 1030/4/1=dead:enough
        #r2 put a k=3 l=1
        redrive 4/1 10/1 99/9
        ^2 outcome row:1090/10/0 x ok
        settle 1140/4/1~1.0=ended:ok
        #r2 put a k=3 l=1
        delivered 17/0
        #r2 put a k=3 l=1
        #r2 put a k=3 l=1
        #r3 invoke i f
        delete a
        ^1 outcome row:1190/20/0 f ok on=a
        #r3 invoke i f
        ",
    );
    insta::assert_snapshot!(view);
}

#[test]
fn an_invocation_from_its_request_to_when_it_is_forgotten() {
    let view = play(
        "
        semantics 2
        config kept=1000
        @9/4 invoke one count on=iah 41
        invoke one count on=iah 41
        invoke one count on=mia 41
        settle 1020/3/0=retry:1100:refused
        ^0 @7/3 outcome row:1100/3/0~0.1 count ok on=iah id=one 42
        invoke one count on=iah 41
        #r invoke two count
        #r invoke two count
        settle 1080/9/0=dead:nobody-there:broken
        invoke two count
        redrive 9/0
        settle 1120/9/0~1.0=dead:still-nobody
        discard 9/0 because=enough
        invoke three count
        +2000 config kept=1000
        invoke one count
        ",
    );
    insta::assert_snapshot!(view);
}

/// Nothing that these rules added happens under those before, to whose logs it would be a different view.
#[test]
fn triggers_come_into_force_with_their_rules() {
    let view = play(
        "
        semantics 1
        @9/1 set a k=1 !k=f
        put a k=2
        invoke i f
        outcome client f ok on=a
        settle 1010/2/0=ended:ok
        semantics 2
        put a k=3
        ",
    );
    insta::assert_snapshot!(view);
}
