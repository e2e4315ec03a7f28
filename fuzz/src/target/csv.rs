//! Order files of the shop.

use shop::input::OrderFile;

/// The whole file.
pub fn run(input: &[u8]) {
    let Ok(mut file) = OrderFile::new(input, "fuzz.csv".to_owned()) else {
        return;
    };
    // A row has at least one byte: more rows than bytes would be an endless file.
    for _ in 0..=input.len() {
        match file.next_row() {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
    panic!("more rows than bytes");
}

/// A sound file, one with quotes and odd line ends, one with what is wrong in each column.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let files = [
        (
            "sound",
            "order_id,customer_id,placed_at,quantity,amount\no-1,anna,2026-01-01T00:00:00Z,2,4.50\no-2,bert,2026-01-01,1,12.00\n",
        ),
        (
            "quoted",
            "\u{feff}\"order_id\",\"customer_id\",\"placed_at\",\"quantity\",\"amount\"\r\n\"o-1\",\"a \"\"b\"\", c\",2026-01-01,2,4.50\r\n\r\n",
        ),
        (
            "wrong",
            "amount,quantity,placed_at,customer_id,order_id\n-1,0,never,,\n1e9,99999999999,2026-13-01,x\n4.505,2,2026-01-01,x,o-1,more\n",
        ),
    ];
    files
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .into()
}
