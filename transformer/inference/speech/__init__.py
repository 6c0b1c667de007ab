"""Speech to text: windows of a spectrogram decoded with Whisper's rules, and long recordings made of them."""
