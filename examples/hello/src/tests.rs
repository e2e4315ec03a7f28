use postrider_testkit::App;

use super::*;

fn shelf() -> Sqlite {
    Sqlite::in_memory()
        .expect("memory can be opened")
        .migrate(&[STOCK])
        .expect("the table is new")
}

fn order(id: &str) -> OrderPlaced {
    OrderPlaced {
        order_id: id.into(),
        quantity: 2,
    }
}

#[tokio::test(start_paused = true)]
async fn stock_is_taken_once_per_order() -> postrider::Result {
    let app = App::start([inventory(shelf())]).await?;
    app.given(order("o-1")).await?;
    app.given(order("o-2")).await?;
    app.settle().await;
    let left: Vec<u32> = app
        .published::<StockReserved>()
        .iter()
        .map(|s| s.left)
        .collect();
    assert_eq!(left, [998, 996]);
    app.stop().await
}

#[tokio::test(start_paused = true)]
async fn a_broken_table_is_a_failure_that_can_be_sent_back() -> postrider::Result {
    let shelf = Sqlite::in_memory()?;
    let app = App::start([inventory(shelf.clone())]).await?;
    app.given(order("o-1")).await?;
    app.settle().await;
    assert_eq!(app.failures().await?.len(), 1, "there is no table yet");

    let _shelf = shelf.migrate(&[STOCK])?;
    assert_eq!(app.redrive_all().await?, 1);
    app.settle().await;
    assert!(app.failures().await?.is_empty());
    assert_eq!(app.published::<StockReserved>().len(), 1);
    app.stop().await
}
