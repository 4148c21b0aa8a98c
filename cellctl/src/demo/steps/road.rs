//! Chapters 1 to 3: the road, and what happens when a message overtakes its data.

use std::time::Instant;

use anyhow::{Result, ensure};
use chaos_tests::harness::LinkState;

use super::super::stage::{Stage, hears};
use super::paid;

pub(super) async fn placed_and_seen(stage: &mut Stage) -> Result<()> {
    stage.chapter("1  an order is placed in its home region and seen in the others");
    // The first request opens connections; the second one is timed.
    stage.place(1_000).await?;
    let begun = Instant::now();
    let order = stage.place(9_100).await?;
    let acknowledged = begun.elapsed();
    stage.say(&format!("{} placed {order}, durable in north after {:.1} ms", stage.a, ms(acknowledged)));
    for region in ["east", "south"] {
        stage.order_is(region, &order, "PendingPayment").await?;
        let seen = begun.elapsed().saturating_sub(acknowledged);
        stage.say(&format!("{region} shows it {:.1} ms after the acknowledgement", ms(seen)));
    }
    Ok(())
}

pub(super) async fn paid_by_somebody_else(stage: &mut Stage) -> Result<()> {
    stage.chapter("2  A in north asks B in east to pay");
    let (a, b) = (stage.a.clone(), stage.b.clone());
    let (mut a_hears, mut b_hears) = (stage.listen(&a).await?, stage.listen(&b).await?);
    let order = stage.place(12_000).await?;
    let begun = Instant::now();
    let payment = stage.ask(&order, None).await?;
    hears(&mut b_hears, "pay-request.received", &order).await?;
    stage.say(&format!("{b} hears of {payment} {:.1} ms after {a} asked", ms(begun.elapsed())));
    let begun = Instant::now();
    stage.accept(&payment).await?;
    stage.say(&format!("{b} accepted"));
    hears(&mut a_hears, "order.paid", &order).await?;
    stage.say(&format!("{a} hears that the order is paid {:.1} ms later", ms(begun.elapsed())));
    stage.everywhere(&order, "Paid").await?;
    stage.books_are(&order, paid(12_000)).await?;
    stage.say("all three regions show Paid; the gateway's books have one capture of 120.00");
    Ok(())
}

pub(super) async fn overtaken(stage: &mut Stage) -> Result<()> {
    stage.chapter("3  the message overtakes its data: it waits, and goes on at once");
    let (a, b) = (stage.a.clone(), stage.b.clone());
    let (mut a_hears, mut b_hears) = (stage.listen(&a).await?, stage.listen(&b).await?);
    stage.cluster.data_into("east", LinkState::Held);
    stage.say("data into east is held, messages pass");
    let order = stage.place(15_000).await?;
    let payment = stage.ask(&order, None).await?;
    parked_and_warned(stage, "east").await?;
    ensure!(stage.order_in("east", &order).await?.is_null(), "east has the order already");
    ensure!(
        stage.payment_in("east", &payment).await?.is_null(),
        "the request was delivered before its order"
    );
    stage.say("east has the request and not the order: parked, and warned of");
    let before = woken(stage, "east").await?;
    let begun = Instant::now();
    stage.cluster.data_into("east", LinkState::Open);
    hears(&mut b_hears, "pay-request.received", &order).await?;
    stage.say(&format!("healed: {b} heard {:.0} ms later", ms(begun.elapsed())));
    say_wake(stage, "east", before, "the order").await?;

    stage.cluster.data_into("north", LinkState::Held);
    stage.say("now data into north is held");
    stage.accept(&payment).await?;
    stage.payment_is("east", &payment, "captured").await?;
    stage.books_are(&order, paid(15_000)).await?;
    parked_and_warned(stage, "north").await?;
    let seen = stage.order_in("north", &order).await?;
    ensure!(seen["status"] != "Paid", "north knew of the payment before its data came: {seen}");
    stage.say("paid in east; the result is parked in north, which has not seen the payment");
    let before = woken(stage, "north").await?;
    let begun = Instant::now();
    stage.cluster.data_into("north", LinkState::Open);
    hears(&mut a_hears, "order.paid", &order).await?;
    let heard = begun.elapsed();
    stage.everywhere(&order, "Paid").await?;
    stage.books_are(&order, paid(15_000)).await?;
    stage.say(&format!("healed: {a} heard {:.0} ms later; Paid everywhere, captured once", ms(heard)));
    say_wake(stage, "north", before, "the payment").await
}

/// Waits until the region's gate holds a message and has warned of it.
pub(super) async fn parked_and_warned(stage: &Stage, region: &str) -> Result<()> {
    let before = stage.metric(region, "cell_gate_warnings_total").await?;
    stage
        .until(&format!("a message is parked in {region} and warned of"), async |stage| {
            let parked = stage.agent(region).await?.parked;
            let warned = stage.metric(region, "cell_gate_warnings_total").await? > before;
            Ok(if parked > 0 && warned { Ok(()) } else { Err(format!("parked {parked}, warned {warned}")) })
        })
        .await
}

/// What a region's gate says of the messages it woke: how many, in how many seconds together, and how many it held that
/// nobody needed any more.
async fn woken(stage: &Stage, region: &str) -> Result<[f64; 3]> {
    Ok([
        stage.metric(region, "cell_gate_wake_seconds_count").await?,
        stage.metric(region, "cell_gate_wake_seconds_sum").await?,
        stage.metric(region, "cell_gate_ended_total").await?,
    ])
}

/// Waits until the parked message has ended, and says how long it took from the apply of what it waited for.
async fn say_wake(stage: &Stage, region: &str, before: [f64; 3], what: &str) -> Result<()> {
    let after = stage
        .until(&format!("the message parked in {region} has ended"), async |stage| {
            let after = woken(stage, region).await?;
            Ok(if after[2] > before[2] { Ok(after) } else { Err(format!("{after:?}")) })
        })
        .await?;
    if after[0] > before[0] {
        let took_ms = (after[1] - before[1]) / (after[0] - before[0]) * 1e3;
        stage.say(&format!("from the apply of {what} to the end of the delivery: {took_ms:.1} ms"));
    } else {
        stage.say(&format!(
            "from the apply of {what} to its effect: 0 ms, the very change raised it; the message, woken too, found \
             nothing left to do"
        ));
    }
    Ok(())
}

pub(super) fn ms(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
